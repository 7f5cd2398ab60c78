#!/usr/bin/env bash
# What a run shows of itself, read by the programs that it is for: a run of two ranks is killed, and goes on; TensorBoard's own reader must then find
# every number of metrics.jsonl, each step once, and Prometheus' own parser what the run serves (docs/seeing.md).
#
#   tests/interop/monitors.sh
#
# PIMOE_BUILD (default: build) holds pimoe. tensorboard and prometheus_client come from PyPI into $PIMOE_DEPS/monitors, once (70 MB).
source "$(dirname "$0")/../../launch/common.sh"
source "$launch/versions.env"
script=monitors

[ -x "$PIMOE_BUILD/pimoe" ] || fail "$PIMOE_BUILD/pimoe is not there." "launch/build.sh builds it; PIMOE_BUILD names the build folder."
[ -e "$PIMOE_DEPS/env.sh" ] || fail "there is no $PIMOE_DEPS/env.sh." "launch/setup.sh writes it; run that first."
source "$PIMOE_DEPS/env.sh"

environment=$PIMOE_DEPS/monitors
wanted="tensorboard==$PIMOE_TENSORBOARD_VERSION prometheus_client==$PIMOE_PROMETHEUS_CLIENT_VERSION"
# Written last: an installation that was interrupted has none.
if [ "$(cat "$environment/installed" 2>/dev/null)" != "$wanted" ]; then
  rm -rf "$environment"
  stage "Python environment $environment" "$PIMOE_DEPS/log/monitors-venv.log" "$PIMOE_PYTHON" -m venv "$environment" ||
    fail "$PIMOE_PYTHON could not make a virtual environment." "On Debian and Ubuntu its package is python3-venv."
  # shellcheck disable=SC2086  # a list of words
  stage "$wanted" "$PIMOE_DEPS/log/monitors-pip.log" "$environment/bin/python3" -m pip --no-input --disable-pip-version-check install \
    --no-compile --progress-bar off $wanted ||
    fail "pip could not install: $wanted" "It needs a package index (PyPI, or the one that PIP_INDEX_URL names)."
  echo "$wanted" >"$environment/installed"
fi

"$environment/bin/python3" "$repository/tests/interop/monitors.py" --pimoe "$PIMOE_BUILD/pimoe" "$@"
