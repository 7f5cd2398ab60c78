#!/usr/bin/env bash
# `pimoe parity` and `pimoe drill` with every kind of MoE layer, in several precisions and layouts of this machine: a line each, exit status 1
# if one says no. Needs a build; takes the GPUs where there are any. ctest runs it in float64 on two ranks, of a narrow model (label system).
#
#   tests/proof/matrix.sh [FOLDER]     what each printed goes to FOLDER (default build/parity)
#
#   JOBS=1   commands at a time         PRECISIONS="float64 float32 bfloat16"         LAYOUTS="1: 2:mesh.expert_parallel=2 ..."  RANKS:key=value,...
#   KEYS=    key=value,... for all of them
source "$(cd "$(dirname "$0")/../.." && pwd)/launch/common.sh"
if [ -e "$PIMOE_DEPS/env.sh" ]; then source "$PIMOE_DEPS/env.sh"; fi
cd "$repository"
folder=${1:-$PIMOE_BUILD/parity}
mkdir -p "$folder"
read -ra precisions <<<"${PRECISIONS:-float64 float32 bfloat16}"
read -ra layouts <<<"${LAYOUTS:-1: 2:mesh.expert_parallel=2 2:mesh.expert_parallel=1}"

moe=model.moe
typed='[{name: reasoning, count: 2, activation: gelu, layers: 3, width: 48}, {name: computation, count: 2, activation: relu2}, {name: mathematical, count: 2, activation: tanh, layers: 2, width: 96}, {name: logical, count: 2, activation: geglu}]'
# name | keys
kinds=(
  "softmax | $moe.choices=2"
  "post-softmax | $moe.router.pre_softmax=false $moe.memory=lean $moe.choices=3"
  "budget | $moe.router.kind=sigmoid $moe.router.groups=2 $moe.balance.bias_rate=0.01 $moe.memory=balanced $moe.rank_budget=1 $moe.shared_width=64"
  "budget-lean | $moe.memory=lean $moe.rank_budget=1 $moe.router.initial_skew=2 $moe.router.linear_bias=true"
  "typed | $moe.groups=$typed $moe.memory=balanced"
  "typed-lean | $moe.groups=$typed $moe.memory=lean $moe.rank_budget=1 $moe.validate=full"
  "checked | $moe.validate=full $moe.fallback_width=64"
  "expert-choice | $moe.router.kind=expert_choice $moe.balance.switch_loss=0"
  "hash | $moe.router.kind=hash $moe.balance.switch_loss=0"
  "uniform | $moe.router.kind=uniform $moe.balance.switch_loss=0"
  "projection | $moe.router.projection=32 $moe.router.temperature=1.5 $moe.router.jitter=0.01"
  "recomputed | train.recompute=full $moe.balance.sequence_loss=0.01 $moe.balance.step_loss=0.01"
  "preset-basic | preset=basic"
  "preset-advanced | preset=advanced"
  "preset-aggressive | preset=aggressive"
  "preset-production | preset=production"
)
drills=$("$PIMOE_BUILD/pimoe" drill list --json | grep -o '"name": *"[^"]*"' | sed 's/.*"\([^"]*\)"$/\1/')
small=(model.layers=2 train.global_batch=4 train.micro_batch=2 model.sequence_length=64)
IFS=, read -ra more <<<"${KEYS:-}"
small+=(${more[@]+"${more[@]}"})
: >"$folder/results"

# one NAME RANKS COMMAND...: runs it, and adds a line to the results
one() {
  local name=$1 ranks=$2 status=0
  shift 2
  "${PIMOE_MPIRUN:-mpirun}" --allow-run-as-root --oversubscribe --bind-to none -n "$ranks" "$PIMOE_BUILD/pimoe" "$@" >"$folder/$name.log" 2>&1 </dev/null || status=$?
  printf '%s %s %s\n' "$([ $status = 0 ] && echo ok || echo NO)" "$status" "$name" | tee -a "$folder/results"
}

queue() {
  while [ "$(jobs -rp | wc -l)" -ge "${JOBS:-1}" ]; do wait -n; done
  one "$@" &
}

for layout in "${layouts[@]}"; do
  ranks=${layout%%:*} mesh=${layout#*:}
  IFS=, read -ra mesh_keys <<<"$mesh"
  tag=$ranks${mesh:+-${mesh//[.=,]/-}}
  for precision in "${precisions[@]}"; do
    for kind in "${kinds[@]}"; do
      name=${kind%% | *} keys=${kind#* | }
      mapfile -t words < <(sed 's/ \(model\.\|train\.\|preset=\)/\n\1/g' <<<"$keys")
      queue "parity-$name-$precision-$tag" "$ranks" parity configs/quickstart.yaml data.train= data.validation= data.tokenizer= model.vocabulary=512 "${small[@]}" \
        "${words[@]}" "train.precision=$precision" "${mesh_keys[@]}"
    done
    for drill in $drills; do
      queue "drill-$drill-$precision-$tag" "$ranks" drill "$drill" configs/quickstart.yaml data.train= data.validation= data.tokenizer= model.vocabulary=512 "${small[@]}" \
        "train.precision=$precision" "${mesh_keys[@]}"
    done
  done
done
wait
bad=$(grep -c '^NO' "$folder/results") || true
say "$(grep -c '' "$folder/results") runs, $bad said no; outputs in $folder"
[ "$bad" = 0 ]
