#!/usr/bin/env bash
# Trains under a real two-node Slurm on this machine, through launch/slurm.sbatch, as a user would:
#
#   tests/slurm/run.sh [--install]     --install gets Slurm and munge by apt first, where they are missing
#
# PIMOE_BUILD (default: build) holds the pimoe binary. Needs root and unshare; see cluster.sh. Takes eight minutes, or twice
# that on a busy machine.
# Exits with 0 if every check holds. Otherwise the logs stay in the folder that the last line names.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1

if [ "${1:-}" = --install ]; then
  packages=(slurmctld slurmd slurm-client munge)
  for package in "${packages[@]}"; do
    dpkg-query --show --showformat='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' && continue
    echo "installing ${packages[*]}"
    apt-get update -q >/dev/null || exit 1
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${packages[@]}" >/dev/null || exit 1
    break
  done
fi

PIMOE_BUILD=$(realpath --canonicalize-missing "${PIMOE_BUILD:-build}")
export PIMOE_BUILD
readonly pimoe=$PIMOE_BUILD/pimoe
[ -x "$pimoe" ] || { echo "run.sh: $pimoe is not there: build it, or set PIMOE_BUILD" >&2; exit 1; }

dir=$(mktemp -d /tmp/pimoe-slurm.XXXXXX)
readonly dir
passed=0
failed=0
trap 'tests/slurm/cluster.sh down "$dir"' EXIT
trap 'exit 130' INT TERM

check() {  # check TEXT COMMAND...: the command says whether the text is true
  local text=$1
  shift
  if "$@" >"$dir/check.out" 2>&1; then
    passed=$((passed + 1))
    echo "  ok      $text"
  else
    failed=$((failed + 1))
    echo "  FAILED  $text"
    tail -n 5 "$dir/check.out" | sed 's/^/          /'
    [ ! -s "${log:-}" ] || { echo "          end of $log:"; tail -n 6 "$log" | sed 's/^/          | /'; }
  fi
}

# submit NAME SBATCH_OPTION... -- KEY=VALUE...: four ranks on two nodes, of tiny.yaml or what $config names.
# Sets job, log and run.
submit() {
  local name=$1 options=()
  shift
  while [ "$1" != -- ]; do options+=("$1"); shift; done
  shift
  run=$dir/runs/$name
  log=$dir/$name.log
  job=$(sbatch --parsable --nodes=2 --ntasks-per-node=2 --output="$log" "${options[@]}" \
    launch/slurm.sbatch "${config:-tests/slurm/tiny.yaml}" \
    run.directory="$run" data.train="$dir/corpus" data.tokenizer="$dir/corpus.model" "$@")
}

until_true() {  # until_true SECONDS COMMAND...
  local tries=$(($1 * 5))
  shift
  until "$@"; do
    [ $((tries -= 1)) -gt 0 ] || return 1
    sleep 0.2
  done
}

field() { scontrol show job --oneliner "$job" | grep -o "\b$1=[^ ]*" | head -n 1 | cut -d= -f2; }
ended() { case $(field JobState) in COMPLETED | FAILED | CANCELLED | TIMEOUT | NODE_FAIL | OUT_OF_MEMORY) ;; *) false ;; esac; }
# is FIELD VALUE: of the job, as scontrol gives it.
is() { echo "$1 is '$(field "$1")', expected '$2'"; [ "$(field "$1")" = "$2" ]; }
says() { grep -qF -- "$2" "$1" || { echo "'$2' is not in $1"; false; }; }
steps_logged() { sed -n 's/.*"step": *\([0-9]*\).*/\1/p' "$run/metrics.jsonl" 2>/dev/null; }
has_steps() { [ "$(steps_logged | wc -l)" -ge "$1" ]; }
each_step_once() { diff <(seq 1 "$1") <(steps_logged); }
has_checkpoint() {
  local name
  name=$(printf '%s/checkpoints/step-%08d' "$run" "$1")
  [ -s "$name/manifest.json" ] && ls "$name"/rank-0003-of-0004*
}
has_rank_logs() { diff <(cd "$run/log" && ls rank-*.log) <(printf 'rank-%04d.log\n' 0 1 2 3); }
newest_checkpoint() {  # its step
  find "$run/checkpoints" -maxdepth 1 -name 'step-*' -printf '%f\n' 2>/dev/null | sort | tail -n 1 | sed 's/step-0*//'
}
rank_processes() {
  local process
  for process in $(pgrep -f "run.directory=$run"); do [ "$(readlink "/proc/$process/exe")" != "$pimoe" ] || echo "$process"; done
}
process_of_rank() {  # the last one is on the second node
  local process
  for process in $(rank_processes); do ! grep -qzx "PMIX_RANK=$1" "/proc/$process/environ" || echo "$process"; done
}

no_rank_is_left() { [ -z "$(rank_processes)" ]; }

trains() {
  submit "$1-plain" -- train.steps=20
  check "the job ends" until_true 120 ended
  check "its state is COMPLETED" is JobState COMPLETED
  check "four ranks took part" has_rank_logs
  check "metrics.jsonl holds each of 20 steps once" each_step_once 20
  check "the checkpoint of step 20 is there, of four ranks" has_checkpoint 20
}

# first_start NAME ARGUMENT...: of a job that will be requeued. It has steps without end, so that a signal finds it training on any machine.
first_start() {
  config=$dir/$1.yaml
  sed 's/^  steps: .*/  steps: 1000000/' tests/slurm/tiny.yaml >"$config"
  submit "$@"
}

# The second start has 20 more steps than were saved, and ends as if there had been no first.
goes_on_to_the_same_bits() {
  local name=$1 saved whole
  shift
  saved=$(newest_checkpoint)
  sed -i "s/^  steps: .*/  steps: $((${saved:-0} + 20))/" "$config"
  check "because the ranks said 75" says "$log" "slurm.sbatch: saved"
  check "the step that it left at is saved, and the last that was logged" each_step_once "${saved:-none}"
  cp "$run/metrics.jsonl" "$dir/before"
  check "the job ends" until_true 240 ended
  check "its state is COMPLETED" is JobState COMPLETED
  check "it is the second start that ended it" says "$log" "start 2"
  check "no step was trained again" cmp "$dir/before" <(head -n "${saved:-0}" "$run/metrics.jsonl")
  check "metrics.jsonl holds each step of both starts once" each_step_once $((${saved:-0} + 20))
  whole=$run
  submit "$name-undisturbed" -- "$@"
  check "a job of $((${saved:-0} + 20)) steps that nobody disturbs ends" until_true 240 ended
  check "its last checkpoint is the same, to the bit" "$pimoe" checkpoint diff "$whole" "$run"
}

# is_asked_to_leave NAME SCANCEL_OPTION...: those options decide who hears it: the script, the ranks, or both, some of them twice.
is_asked_to_leave() {
  local config
  first_start "$1" -- checkpoint.resume=none  # of the first start alone: with it the second one would be refused
  check "training starts" until_true 120 has_steps 5
  scancel "${@:2}" --signal=USR1 "$job"
  check "asked to leave, the job is requeued" until_true 90 is Restarts 1
  goes_on_to_the_same_bits "$1"
}

# The signal may come before the launcher, the ranks or the training loop are there to hear it.
is_asked_to_leave_at_once() {
  submit "$1-at-once" -- train.steps=100000
  check "the job starts" until_true 60 says "$log" "start 1"
  scancel --batch --signal=USR1 "$job"
  check "asked to leave at once, the job is requeued" until_true 60 is Restarts 1
  local early
  early=$(steps_logged | wc -l)
  check "the second start trains on" until_true 120 has_steps $((early + 3))
  scancel "$job"
  check "the job ends" until_true 60 ended
}

is_cancelled() {
  submit "$1-cancelled" -- train.steps=100000
  check "training starts" until_true 120 has_steps 2
  scancel "$job"
  check "a cancelled job ends" until_true 60 ended
  check "no rank is left" until_true 20 no_rank_is_left
  check "it is not requeued" is Restarts 0
  check "its state is CANCELLED" is JobState CANCELLED
}

# loses_a_rank NAME SIGNAL VERDICT: the last rank, on the second node, by KILL or STOP; the watchdog is to say which one, where and when.
loses_a_rank() {
  local begin
  submit "$1" -- train.steps=1000000 run.hang_limit=3
  check "training starts" until_true 120 has_steps 2
  sleep 1  # until the watchdog has heard of a step
  kill -"$2" "$(process_of_rank 3)"
  begin=$SECONDS
  check "the job ends" until_true 20 ended
  echo "          after $((SECONDS - begin)) s"
  check "its state is FAILED" is JobState FAILED
  check "it is not requeued" is Restarts 0
  check "no rank is left" until_true 10 no_rank_is_left
  check "the message names rank, node and step" grep -E "$3: rank 3 \(n2, process [0-9]+\), last heard of at step [0-9]+" "$log"
  grep -oE "$3: rank 3 .*" "$log" | head -n 1 | cut -c 1-150 | sed 's/^/          /'
}

has_a_wrong_key() {
  submit "$1-wrong" -- train.step=20
  check "the job ends" until_true 120 ended
  check "its exit code is that of a bad configuration" is ExitCode 78:0
  check "the message names the right key" says "$log" train.steps
}

# Slurm's own warning before the time limit, which comes in ticks of half a minute. The larger batch keeps the number of steps low.
reaches_its_time_limit() {
  local config
  first_start time-limit --time=2 --signal=B:USR1@90 -- train.global_batch=64
  check "Slurm's warning before the time limit has the job requeued" until_true 150 is Restarts 1
  goes_on_to_the_same_bits time-limit train.global_batch=64
}

is_refused_without_pmix() {
  log=$dir/singletons.log
  run=$dir/runs/singletons
  timeout 60 srun --mpi=none --nodes=2 --ntasks-per-node=2 "$pimoe" train tests/slurm/tiny.yaml run.directory="$run" \
    data.train="$dir/corpus" data.tokenizer="$dir/corpus.model" >"$log" 2>&1
  local status=$?
  check "four tasks that are each a world of one are refused, not left waiting (status $status)" test $status -ne 0 -a $status -ne 124
  check "the message says how to start them" says "$log" --mpi=pmix
  check "nothing was trained" test ! -e "$run/metrics.jsonl"
}

has_no_binary() {
  PIMOE_BUILD=$dir/nowhere submit no-binary -- train.steps=20
  check "the job ends" until_true 60 ended
  check "its exit code is that of wrong usage" is ExitCode 64:0
  check "the message names the file and PIMOE_BUILD" says "$log" "$dir/nowhere/pimoe is not there"
}

# scale STATUS ARGUMENT...: launch/scaling.sh on tiny.yaml, until its jobs are done, and with what status it has to end.
readonly scaling=(launch/scaling.sh tests/slurm/tiny.yaml model.vocabulary=512 --weak --output "$dir/scaling" --ranks-per-node 2)
scale() {
  local status=0
  log=$dir/scaling.log
  "${scaling[@]}" "${@:2}" >"$log" 2>&1 || status=$?
  echo "exit status $status, expected $1"
  [ $status = "$1" ]
}
jobs_of_scaling() { cat "$dir"/scaling/scaling-*.job; }
# has_row PATTERN: its columns are ranks, hosts, threads of a rank, expert_parallel, sequences a step, and more.
has_row() { grep -E "^\| $1" "$dir/scaling/table.md" || { cat "$dir/scaling/table.md" && false; }; }

measures_scaling() {
  check "1, 2 and 4 ranks are measured" scale 0 --ranks 1,2,4 --seconds 0 --slurm
  check "1 rank on one node trains 8 sequences a step" has_row '1 \| 1 \| [0-9]+ \| 1 \| 8 '
  check "2 ranks on one node train 16" has_row '2 \| 1 \| [0-9]+ \| 2 \| 16 '
  check "4 ranks on two nodes train 32" has_row '4 \| 2 \| [0-9]+ \| 2 \| 32 '
  jobs_of_scaling >"$dir/first"
  check "the same again succeeds" scale 0 --ranks 1,2,4 --seconds 0 --slurm
  check "and has submitted nothing" cmp "$dir/first" <(jobs_of_scaling)

  "${scaling[@]}" --ranks 1,2,4 --seconds 1 --slurm >"$log" 2>&1 &
  local waiting=$!
  check "other seconds: new jobs" until_true 60 says "$log" "waiting for the jobs"
  kill -TERM $waiting
  wait $waiting
  check "whoever waits can be ended (status $?)" says "$log" "jobs that were submitted go on"
  check "its jobs are new" has_no_job_of "$dir/first"
  jobs_of_scaling >"$dir/first"
  check "the same command waits for them" scale 0 --ranks 1,2,4 --seconds 1 --slurm
  check "and has submitted nothing" cmp "$dir/first" <(jobs_of_scaling)
  check "--gather has all of them" launch/scaling.sh --gather "$dir/scaling"

  check "3 ranks cannot be two groups of experts" scale 1 --ranks 2,3 --seconds 0 mesh.expert_parallel=2 --slurm
  check "their row has the error" has_row '3 \|.*exit status 78.*expert_parallel'
  check "the others stay" has_row '2 \| 1 '
}
has_no_job_of() { ! jobs_of_scaling | grep -xF -f "$1"; }

section() { echo "$1"; "${@:2}"; }

tests/slurm/cluster.sh up "$dir" || exit 1
# shellcheck disable=SC1091
. "$dir/env"
export OMPI_MCA_mpi_yield_when_idle=1  # four ranks may have two cores
"$pimoe" data build --output "$dir/corpus" --vocabulary 512 --include '*.h' src >"$dir/corpus.log" 2>&1 ||
  { cat "$dir/corpus.log"; exit 1; }

for launcher in srun mpirun; do
  export PIMOE_LAUNCHER=$launcher
  section "$launcher: a job that ends by itself" trains $launcher
  section "$launcher: a job that is asked to leave (scancel --batch)" is_asked_to_leave $launcher-batch --batch
  section "$launcher: a job whose steps are asked to leave (scancel)" is_asked_to_leave $launcher-steps
  section "$launcher: a job of which all are asked to leave (scancel --full)" is_asked_to_leave $launcher-full --full
  section "$launcher: a job that is asked to leave at once" is_asked_to_leave_at_once $launcher
  section "$launcher: a job that is cancelled" is_cancelled $launcher
  section "$launcher: a job of which one rank dies" loses_a_rank $launcher-dies KILL dead
  section "$launcher: a job of which one rank stands still" loses_a_rank $launcher-stops STOP stopped
  section "$launcher: a job with a wrong key" has_a_wrong_key $launcher
done
unset PIMOE_LAUNCHER
section "a job that reaches its time limit" reaches_its_time_limit
section "a scaling experiment" measures_scaling
section "srun without PMIx" is_refused_without_pmix
section "a job without a binary" has_no_binary

tests/slurm/cluster.sh down "$dir"
if [ $failed = 0 ]; then rm -rf "$dir"; else echo "logs: $dir"; fi
echo "$passed passed, $failed failed"
[ $failed = 0 ]
