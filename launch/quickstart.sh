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

# What would be trained, as shell variables; values may hold spaces and quotes.
config=$("$pimoe" train configs/quickstart.yaml "$@" --print-config)
wanted='import re, shlex, sys
names = {"run.directory": "run", "train.steps": "steps", "data.train": "trained"}
section = ""
for line in sys.stdin:
    match = re.match(r"""( *)(\w+):(?: (?:"((?:[^"\\]|\\.)*)"|(\S+)))?""", line)
    if not match: continue
    indent, key, text, word = match.groups()
    if not indent: section = key
    if len(indent) != 2 or section + "." + key not in names: continue
    unescaped = lambda escape: chr(int(escape[1], 16)) if escape[1] else {"n": "\n"}.get(escape[2], escape[2])
    value = re.sub(r"\\(?:x(..)|(.))", unescaped, text) if text is not None else word
    print(names[section + "." + key] + "=" + shlex.quote(value))'
eval "$("$PIMOE_PYTHON" -c "$wanted" <<<"$config")"

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
if [ "$steps" -eq 0 ]; then
  say "train.steps is 0: nothing to train."
elif [ "$at_step" -ge "$steps" ]; then
  say "the run $run is complete: $at_step of $steps steps."
  say "to train further: launch/quickstart.sh train.steps=$((at_step + steps)); to start anew: rm -r $(printf %q "$run")"
else
  if [ "$at_step" -gt 0 ]; then say "going on from step $at_step of $steps"; fi
  # In a session of its own, so that a Ctrl-C reaches this script alone, which asks the ranks to save and leave: SIGUSR1 is what mpirun
  # forwards and then waits for. It is repeated until mpirun has left, and ignored by ranks that are still loading: an early one reaches none
  # of them, or some.
  asked=0
  training=
  ask_to_stop() {
    if [ -z "$training" ]; then return; fi
    say "saving, and then leaving; a second Ctrl-C ends the ranks at once ..."
    while ask_ranks "$training" "$pimoe"; do sleep 3; done >/dev/null &
  }
  on_signal() {
    asked=$((asked + 1))
    if [ "$asked" -eq 1 ]; then ask_to_stop; elif [ -n "$training" ]; then kill -TERM "$training" 2>/dev/null || true; fi
  }
  trap on_signal INT TERM HUP
  setsid "${mpirun[@]}" env --ignore-signal=USR1 "$pimoe" train configs/quickstart.yaml "$@" &
  training=$!
  if [ "$asked" -gt 0 ]; then ask_to_stop; fi
  while :; do
    before=$asked
    status=0
    wait "$training" || status=$?
    [ "$asked" -ne "$before" ] || break  # or else a signal ended `wait`, not mpirun
  done
  trap - INT TERM HUP
  # 138, 128 + USR1: mpirun had not begun to listen, or no longer did; its ranks had not started, or were done.
  if [ "$status" -eq 75 ] || { [ "$asked" -eq 1 ] && [ "$status" -eq 138 ]; }; then
    say "stopped; the same command goes on from step $(saved_step)."
    exit 130
  elif [ "$status" -ne 0 ]; then
    (fail "training ended with status $status." "What each rank logged is in $run/log.") || exit "$status"
  fi
fi

# What the model has learned beyond the frequencies of tokens.
facts='import json, sys
records = [json.loads(line) for line in open(sys.argv[1])]
entropy = json.load(sys.stdin)["unigram_entropy"]
for key, name in ("validation_loss", "validation loss"), ("loss", "training loss"):
    losses = [record[key] for record in records if record.get(key) is not None]
    if losses: break
else:
    sys.exit("no loss was recorded")
gain = entropy - losses[-1]
print(f"{name} {losses[-1]:.3f} nats a token; knowing only how frequent each token is would give {entropy:.3f}:",
      f"{abs(gain):.3f} nats", "better" if gain >= 0 else "worse")'
if [ -s "$run/metrics.jsonl" ]; then
  if learned=$("$pimoe" data inspect "$trained" --json | "$PIMOE_PYTHON" -c "$facts" "$run/metrics.jsonl"); then say "$learned"; fi
fi

at_step=$(saved_step)
if [ "$at_step" -eq 0 ]; then
  say "no sample: $run has no checkpoint (checkpoint.at_end and checkpoint.every_steps say when one is saved)."
else
  say "a sample, after $at_step steps, of what follows 'def ':"
  "$pimoe" generate --checkpoint "$run" --prompt $'\ndef ' --tokens 100 --temperature 0.8 --top-p 0.9 --seed 1
fi
