#!/usr/bin/env bash
# Programs of others against `pimoe serve`, unchanged: the openai client, and lm-evaluation-harness' local-completions (docs/serving.md).
#
#   tests/interop/served.sh
#
# PIMOE_BUILD (default: build) holds pimoe and tests/whole_model. openai, lm_eval and transformers come from PyPI, once (environments.sh); no data set or model is
# fetched: a tiny model is trained.
source "$(dirname "${BASH_SOURCE[0]}")/environments.sh"

needs pimoe tests/whole_model
served_environment
see_torch
export OMP_NUM_THREADS=1
"$python" "$repository/tests/interop/served_clients.py" --pimoe "$PIMOE_BUILD/pimoe" --whole-model "$PIMOE_BUILD/tests/whole_model" "$@"
