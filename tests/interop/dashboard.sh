#!/usr/bin/env bash
# launch/grafana.json against a Prometheus that scrapes a run: every query of every panel must be answered with numbers (docs/seeing.md).
#
#   tests/interop/dashboard.sh
#
# PIMOE_BUILD (default: build) holds pimoe. Prometheus is the one on the PATH, or else that of Debian's or Ubuntu's package, unpacked into
# $PIMOE_DEPS/prometheus (20 MB to fetch); nothing is installed.
source "$(dirname "${BASH_SOURCE[0]}")/environments.sh"

needs pimoe
monitors_environment
unpacked=$PIMOE_DEPS/prometheus
prometheus=$(command -v prometheus || echo "$unpacked/usr/bin/prometheus")
if [ ! -x "$prometheus" ]; then
  command -v apt-get >/dev/null || unavailable "there is no prometheus on the PATH, and no apt-get to fetch it with."
  scratch=$(mktemp -d)
  fetch() { cd "$scratch" && apt-get -q -o Acquire::Retries=1 -o Acquire::http::Timeout=15 download prometheus && dpkg-deb -x prometheus_*.deb unpacked; }
  stage "Debian's package prometheus (20 MB to fetch)" "$PIMOE_DEPS/log/prometheus.log" fetch ||
    unavailable "there is no prometheus on the PATH, and apt-get cannot fetch it: $(tail -n 1 "$PIMOE_DEPS/log/prometheus.log")"
  rm -rf "$unpacked"
  mv "$scratch/unpacked" "$unpacked"
  rm -rf "$scratch"
fi
"$python" "$repository/tests/interop/dashboard.py" --pimoe "$PIMOE_BUILD/pimoe" --prometheus "$prometheus" "$@"
