#!/usr/bin/env bash
# Adaptive routing against fixed settings, from a badly skewed router: trains the quickstart's model, one choice of eight experts, most of the
# slots on the first expert at the start, with each setting and three seeds. Afterwards: bench/adaptive.py FOLDER
#
#   bench/adaptive.sh FOLDER [key.path=value ...]     JOBS runs at a time (default 1), on CUDA device i mod GPUS where GPUS is set;
#                                                     SEEDS="1 2 3"   SETTINGS="adaptive none": these alone
set -euo pipefail
repository=$(cd "$(dirname "$0")/.." && pwd)
pimoe=${PIMOE_BUILD:-$repository/build}/pimoe
folder=$1
shift
cd "$repository"
mkdir -p "$folder"

common=(model.moe.choices=1 model.moe.expert_width=512 model.moe.router.renormalize=false model.moe.router.linear_bias=true
  model.moe.router.initial_skew=0.75 train.steps=200 train.global_batch=128 train.micro_batch=128 train.validate_every=50
  checkpoint.every_steps=0 checkpoint.at_end=false log.every_steps=50)

# name, then the keys that make the setting
balance=model.moe.balance
settings=(
  "none $balance.switch_loss=0"
  "switch-0.01 $balance.switch_loss=0.01"
  "switch-0.03 $balance.switch_loss=0.03"
  "switch-0.1 $balance.switch_loss=0.1"
  "bias-0.001 $balance.switch_loss=0 $balance.bias_rate=0.001"
  "bias-0.003 $balance.switch_loss=0 $balance.bias_rate=0.003"
  "bias-0.01 $balance.switch_loss=0 $balance.bias_rate=0.01"
  "proportional-0.01 $balance.switch_loss=0 $balance.bias_law=proportional $balance.bias_rate=0.01"
  "proportional-0.02 $balance.switch_loss=0 $balance.bias_law=proportional $balance.bias_rate=0.02"
  "proportional-0.03 $balance.switch_loss=0 $balance.bias_law=proportional $balance.bias_rate=0.03"
  "both-0.01-0.003 $balance.switch_loss=0.01 $balance.bias_rate=0.003"
  "both-0.01-prop-0.02 $balance.switch_loss=0.01 $balance.bias_law=proportional $balance.bias_rate=0.02"
  "adaptive $balance.switch_loss=0 model.moe.adaptive.enabled=true"
  "adaptive+switch-0.01 $balance.switch_loss=0.01 model.moe.adaptive.enabled=true"
)

run=0
for seed in ${SEEDS:-1 2 3}; do
  for setting in "${settings[@]}"; do
    read -r name keys <<<"$setting"
    if [ -n "${SETTINGS:-}" ] && [[ " $SETTINGS " != *" $name "* ]]; then continue; fi
    # shellcheck disable=SC2086  # keys are words
    (
      if [ -n "${GPUS:-}" ]; then export CUDA_VISIBLE_DEVICES=$((run % GPUS)); fi
      "$pimoe" train configs/quickstart.yaml "${common[@]}" $keys run.seed=$seed run.directory="$folder/$name-seed$seed" "$@" \
        >"$folder/$name-seed$seed.log" 2>&1 || echo "$name, seed $seed: exit status $?" >&2
    ) &
    run=$((run + 1))
    while [ "$(jobs -rp | wc -l)" -ge "${JOBS:-1}" ]; do wait -n; done
  done
done
wait
