#!/usr/bin/env bash
# What a run shows of itself, read by the programs that it is for: a run of two ranks is killed, and goes on; TensorBoard's own reader must then find
# every number of metrics.jsonl, each step once, and Prometheus' own parser what the run serves (docs/seeing.md).
#
#   tests/interop/monitors.sh
#
# PIMOE_BUILD (default: build) holds pimoe. tensorboard and prometheus_client come from PyPI, once (environments.sh).
source "$(dirname "${BASH_SOURCE[0]}")/environments.sh"
script=monitors

needs pimoe
monitors_environment
"$python" "$repository/tests/interop/monitors.py" --pimoe "$PIMOE_BUILD/pimoe" "$@"
