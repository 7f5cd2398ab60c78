#!/usr/bin/env bash
# lm-evaluation-harness on what `pimoe export` wrote: its loglikelihoods and scores must be those of PiMoE itself (docs/interop.md).
#
#   tests/interop/lm_eval.sh
#
# PIMOE_BUILD (default: build) holds pimoe and tests/whole_model. lm_eval and transformers come from PyPI, once (environments.sh); no data set or model is
# fetched: a tiny model is trained, on tasks of its own.
source "$(dirname "${BASH_SOURCE[0]}")/environments.sh"

needs pimoe tests/whole_model
lm_eval_environment
see_torch
export OMP_NUM_THREADS=1
"$python" "$repository/tests/interop/lm_eval_scores.py" --pimoe "$PIMOE_BUILD/pimoe" --whole-model "$PIMOE_BUILD/tests/whole_model" "$@"
