#!/usr/bin/env bash
# From a fresh clone to a small trained Mixture-of-Experts model and a sample of what it writes: sets up, builds, makes a corpus of the
# Python files of the installed torch package, trains configs/quickstart.yaml under mpirun, and generates text. Run again, it goes on
# where it stopped.
#
#   launch/quickstart.sh [key.path=value ...]     for example train.steps=600; passed to `pimoe train`
#
# One rank for each GPU, at most two; without a GPU two CPU ranks (one, on a single core).
source "$(dirname "$0")/common.sh"

for argument in "$@"; do
  case $argument in
    -h | --help) sed -n '2,/^source/{/^#/s/^# \{0,1\}//p}' "$0" && exit 0 ;;
    *=*) ;;
    *) echo "quickstart.sh: '$argument' is not of the form key.path=value" >&2 && exit 64 ;;
  esac
done

"$launch/setup.sh"
"$launch/build.sh" pimoe
source "$PIMOE_DEPS/env.sh"
cd "$repository"   # the paths of the configuration are relative to it

pimoe=$PIMOE_BUILD/pimoe
corpus=data/quickstart/corpus

if "$pimoe" data verify "$corpus" >/dev/null 2>&1; then
  say "corpus $corpus: there already"
else
  stage "corpus $corpus from the Python files of $PIMOE_TORCH_FOLDER" "$PIMOE_BUILD/corpus.log" \
    "$pimoe" data build --output "$corpus" --vocabulary 4096 --validation 0.02 --include '*.py' "$PIMOE_TORCH_FOLDER" ||
    fail "the corpus could not be made." "The whole output is in $PIMOE_BUILD/corpus.log."
fi

# resolved SECTION KEY: a value of the configuration that would be trained.
config=$("$pimoe" train configs/quickstart.yaml "$@" --print-config)
resolved() {
  tr -d '"' <<<"$config" |
    awk -v section="$1:" -v key="$2:" '/^[a-z]/ { inside = $1 == section } inside && $1 == key && !found++ { print $2 }'
}
run=$(resolved run directory)
steps=$(resolved train steps)

saved_step() {
  local newest='import json, sys; print(max((c["step"] for c in json.load(sys.stdin) if c["good"]), default=0))'
  "$pimoe" checkpoint list "$run" --json 2>/dev/null | "$PIMOE_PYTHON" -c "$newest" 2>/dev/null || echo 0
}

# As many ranks as there are GPUs, up to two; mpirun counts cores, and wants to be told where there are fewer of those than ranks.
ranks=2
if [ "$PIMOE_CUDA_BUILD" = ON ] && [ "$(gpu_count)" -eq 1 ]; then
  ranks=1
elif [ "$PIMOE_CUDA_BUILD" = OFF ] || [ "$(gpu_count)" -eq 0 ]; then
  if [ "$(nproc)" -lt 2 ]; then ranks=1; fi
fi
cores=$(lscpu -p=CORE,SOCKET 2>/dev/null | grep -v '^#' | sort -u | wc -l) || cores=1
mpirun=(mpirun --bind-to none -n "$ranks")
if [ "$(id -u)" -eq 0 ]; then mpirun+=(--allow-run-as-root); fi
if [ "$ranks" -gt "$cores" ]; then mpirun+=(--oversubscribe); fi

at_step=$(saved_step)
if [ "$at_step" -ge "$steps" ]; then
  say "the run $run is complete: $at_step of $steps steps."
  say "to train further: launch/quickstart.sh train.steps=$((at_step + steps)); to start anew: rm -r $run"
else
  if [ "$at_step" -gt 0 ]; then say "going on from step $at_step of $steps"; fi
  # In a session of its own, so that a ctrl-C reaches this script alone, which asks the ranks to save and leave: SIGUSR1 is what mpirun
  # forwards and then waits for. A second one ends them at once.
  status=0
  stopped=
  setsid "${mpirun[@]}" "$pimoe" train configs/quickstart.yaml "$@" &
  training=$!
  ask_to_stop() {
    if [ -n "$stopped" ]; then kill -TERM $training 2>/dev/null; else kill -USR1 $training 2>/dev/null; fi
    stopped=yes
  }
  trap ask_to_stop INT TERM HUP
  wait $training || status=$?
  while kill -0 $training 2>/dev/null; do
    status=0
    wait $training || status=$?
  done
  trap - INT TERM HUP
  if [ -n "$stopped" ] || [ $status -eq 75 ]; then
    say "stopped; the same command goes on from step $(saved_step)."
    exit 130
  elif [ $status -ne 0 ]; then
    fail "training ended with status $status." "What each rank logged is in $run/log."
  fi
fi

# What the model has learned beyond the frequencies of tokens.
facts='import json, sys
loss = [r["validation_loss"] for r in map(json.loads, open(sys.argv[1])) if "validation_loss" in r][-1]
entropy = json.load(sys.stdin)["unigram_entropy"]
print(f"validation loss {loss:.3f} nats a token; knowing only how frequent each token is would give {entropy:.3f}: {entropy - loss:.3f} nats better")'
say "$("$pimoe" data inspect "$corpus" --json | "$PIMOE_PYTHON" -c "$facts" "$run/metrics.jsonl")"

say "a sample, after $(saved_step) steps, of what follows 'def ':"
"$pimoe" generate --checkpoint "$run" --prompt $'\ndef ' --tokens 100 --temperature 0.8 --top-p 0.9 --seed 1
