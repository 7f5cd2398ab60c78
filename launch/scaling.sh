#!/usr/bin/env bash
# Measures the training step of one configuration at several rank counts, and gathers a table and a picture (docs/scaling.md).
#
#   launch/scaling.sh CONFIG.yaml [key=value ...] --ranks LIST --strong|--weak [option ...] [--slurm [sbatch option ...]]
#   launch/scaling.sh --gather DIR
#
#   --ranks LIST         rank counts with commas between them: 1,2,4,8
#   --strong             the step stays the same: every count trains train.global_batch sequences
#   --weak               the step grows with the ranks: train.global_batch is that of the smallest count
#   --output DIR         where results, table.md and scaling.svg go (runs/scaling/CONFIG-strong or -weak)
#   --seconds S          of measuring at each count, after warming up (5)
#   --mpirun "..."       further arguments for mpirun, such as "--hostfile hosts"
#   --ranks-per-node M   under Slurm: at most so many tasks on a node (as many as there are ranks: one node)
#   --slurm OPTION ...   a job for each count instead of mpirun; stands last, what follows it goes to sbatch, with {tasks} replaced by the
#                        tasks of a node. Waits for the jobs; they go on if it is interrupted.
#   --gather DIR         table and picture again, of what is in DIR
#
# A count that has a result of the same configuration, build and options is not run again. Ends with 0; 1 if a count has no result (its
# error is in the table); 64, 78 and 65 for what no count could run with.
#
# Examples:
#   launch/scaling.sh configs/quickstart.yaml model.vocabulary=4096 --ranks 1,2,4,8 --strong
#   launch/scaling.sh configs/quickstart.yaml model.vocabulary=4096 --ranks 4,8,16 --weak --ranks-per-node 4 --slurm --gpus-per-node={tasks} --time=20
source "$(dirname "$0")/common.sh"

counted() { if [ "$1" = 1 ]; then echo "1 rank"; else echo "$1 ranks"; fi; }
usage() { echo "scaling.sh: $*; launch/scaling.sh --help" >&2 && exit 64; }
needs_value() { [ "$2" -ge 2 ] || usage "$1 needs a value"; }

config='' words=() list='' mode='' output='' seconds=5 mpirun_words=() ranks_per_node='' slurm='' sbatch_words=() gather=''
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help) sed -n '2,/^source/{/^#/s/^# \{0,1\}//p}' "$0" && exit 0 ;;
    --strong | --weak)
      [ -z "$mode" ] || [ "$mode" = "${1#--}" ] || usage "--strong and --weak are two experiments: choose one"
      mode=${1#--}
      ;;
    --ranks) needs_value "$1" $# && list=$2 && shift ;;
    --output) needs_value "$1" $# && output=$2 && shift ;;
    --seconds)
      needs_value "$1" $#
      [[ $2 =~ ^[0-9]{1,4}(\.[0-9]+)?$ ]] || usage "--seconds ($2) must be a number from 0 to 3600"
      seconds=$2 && shift
      ;;
    --mpirun) needs_value "$1" $# && read -ra mpirun_words <<<"$2" && shift ;;
    --ranks-per-node)
      needs_value "$1" $#
      [[ $2 =~ ^[1-9][0-9]{0,4}$ ]] || usage "--ranks-per-node ($2) must be a whole number of at least 1"
      ranks_per_node=$2 && shift
      ;;
    --gather) needs_value "$1" $# && gather=$2 && shift ;;
    --slurm) slurm=1 && shift && sbatch_words=("$@") && break ;;
    -*) usage "there is no option $1 (sbatch's own go behind --slurm, mpirun's into --mpirun \"...\")" ;;
    *=*) words+=("$1") ;;
    *) [ -z "$config" ] || usage "two configurations, $config and $1: one experiment has one" ; config=$1 ;;
  esac
  shift
done

if [ -e "$PIMOE_DEPS/env.sh" ]; then source "$PIMOE_DEPS/env.sh"; fi
python=${PIMOE_PYTHON:-python3}
command -v "$python" >/dev/null || fail "there is no $python, which gathers the results." "Run launch/setup.sh, or install python3."

# What Slurm says of a job.

queue() { squeue --noheader --user="$(id -un)" --format='%A %T'; }
job_of() { cat "$output/scaling-$1.job" 2>/dev/null || true; }
# state_of RANKS: "job 12 is PENDING", or how it ended; nothing where Slurm has forgotten it.
state_of() {
  local job shown state code
  job=$(job_of "$1")
  shown=$(scontrol show job --oneliner "$job" 2>/dev/null) || return 0
  state=$(grep -oP '\bJobState=\K\w+' <<<"$shown") code=$(grep -oP '\bExitCode=\K\d+:\d+' <<<"$shown")
  case $state in
    PENDING | RUNNING | COMPLETING | SUSPENDED) echo "job $job is $state" ;;
    *) echo "job $job is $state, exit status ${code%:*}$([ "${code#*:}" = 0 ] || echo ", signal ${code#*:}")" ;;
  esac
}
note_states() {
  local file ranks state
  for file in "$output"/scaling-*.job; do
    [ -e "$file" ] || continue
    ranks=${file##*-} ranks=${ranks%.job}
    state=$(state_of "$ranks")
    if [ -n "$state" ]; then echo "$state" >"$output/scaling-$ranks.status"; fi
  done
}
show_results() {
  note_states
  exec "$python" "$repository/bench/scaling.py" "$output"
}

if [ -n "$gather" ]; then
  [ -z "$config$list$mode$slurm" ] || usage "--gather DIR stands alone"
  [ -e "$gather/experiment.json" ] || usage "--gather $gather: no experiment was begun there"
  output=$gather
  show_results
fi

# The experiment.

[ -n "$config" ] || usage "no configuration given"
[ -n "$list" ] || usage "--ranks is missing: --ranks 1,2,4"
[[ $list =~ ^[1-9][0-9]{0,5}(,[1-9][0-9]{0,5})*$ ]] || usage "--ranks ($list) must be whole numbers of at least 1, with commas between them: 1,2,4"
[ -n "$mode" ] || usage "--strong (the step stays the same) or --weak (it grows with the ranks) is missing"
[ -z "$ranks_per_node" ] || [ -n "$slurm" ] || usage "--ranks-per-node is for --slurm; for mpirun a hostfile with slots= says it"
[ -z "$slurm" ] || [ ${#mpirun_words[@]} = 0 ] || usage "--mpirun and --slurm exclude each other"
mapfile -t counts < <(tr , '\n' <<<"$list" | sort -nu)
smallest=${counts[0]} largest=${counts[-1]}
pimoe=$PIMOE_BUILD/pimoe
[ -x "$pimoe" ] || fail "$pimoe is not there." "Build it with launch/build.sh, or set PIMOE_BUILD."
if [ -n "$slurm" ]; then
  command -v sbatch >/dev/null || fail "there is no sbatch on the PATH." "Submit from a node of the cluster, or leave --slurm out to use mpirun."
else
  command -v mpirun >/dev/null || fail "there is no mpirun on the PATH." "Load the Open MPI that $pimoe was built with."
fi

# The configuration as it resolves. No corpus is needed, and which one is named changes nothing.
without_corpus=(data.train=none)
for word in "${words[@]}"; do if [[ $word = data.train=* ]]; then without_corpus=(); fi; done
resolved() { "$pimoe" train "$config" "${words[@]}" "${without_corpus[@]}" --print-config; }
resolved=$(resolved) || exit $?
of_train() { sed -n "/^train:/,/^[a-z]/s/^  $1: *\([^ ]*\).*/\1/p" <<<"$resolved"; }
global_batch=$(of_train global_batch)
has_word() { local word; for word in "${mpirun_words[@]}"; do if [[ $word =~ $1 ]]; then return 0; fi; done; return 1; }

# On one machine without GPUs its cores are shared out as the largest count needs it: a rank has the same at every count.
launcher=(mpirun)
if [ -z "$slurm" ]; then
  has_word '^-*(bind-to|map-by)' || launcher+=(--bind-to none)
  if ! has_word '^-*(hostfile|machinefile|host|H)$'; then
    if [ -z "${OMP_NUM_THREADS:-}" ] && [ "$(of_train threads)" = auto ] && [ "$(gpu_count)" = 0 ]; then
      threads=$(($(nproc) / largest))
      words+=("train.threads=$((threads > 1 ? threads : 1))")
    fi
    launcher+=(--oversubscribe)
  fi
  launcher+=("${mpirun_words[@]}")
  if [ "$(id -u)" = 0 ]; then export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1; fi
fi

# describe RANKS: sets `keys`, the overrides of this count, and `options`, sbatch's; returns 1 where its batch would not be whole.
describe() {
  local nodes tasks word
  keys=("${words[@]}") options=()
  if [ "$mode" = weak ]; then
    [ $((global_batch * $1 % smallest)) = 0 ] || return 1
    keys=()
    for word in "${words[@]}"; do if [[ $word != train.global_batch=* ]]; then keys+=("$word"); fi; done
    keys+=("train.global_batch=$((global_batch * $1 / smallest))")
  fi
  if [ -n "$slurm" ]; then
    nodes=$((($1 + ${ranks_per_node:-$1} - 1) / ${ranks_per_node:-$1}))
    tasks=$((($1 + nodes - 1) / nodes))
    options=("--nodes=$nodes" "--ntasks=$1" "--ntasks-per-node=$tasks" "${sbatch_words[@]//\{tasks\}/$tasks}")
  fi
}

# What a result depends on: one that was made with the same text is taken as it is.
build=$(sha256sum <"$pimoe" | cut -c 1-16)
plan() {
  if [ -n "$slurm" ]; then echo "launcher: sbatch ${options[*]}, ${PIMOE_LAUNCHER:-srun}"; else echo "launcher: ${launcher[*]}"; fi
  echo "keys: ${keys[*]}"
  echo "seconds: $seconds"
  echo "OMP_NUM_THREADS: ${OMP_NUM_THREADS:-not set}"
  echo "build: $build"
  echo "$resolved"
}

# is_done RANKS: whether there is a result with this plan; says why an older one is not taken, and removes it.
is_done() {
  local file=$output/scaling-$1 changed
  [ -e "$file.json" ] || return 1
  if plan | cmp -s - "$file.plan"; then say "$(counted "$1"): $file.json is there, of the same configuration, build and options" && return; fi
  changed=$({ plan | diff "$file.plan" - || true; } 2>/dev/null | sed -n 's/^\([<>]\) \([^#]*[^# ]\) *\(#.*\)\{0,1\}$/\1 \2/p')
  changed="'$(sed -n '/^< */{s///p;q}' <<<"$changed")' then, '$(sed -n '/^> */{s///p;q}' <<<"$changed")' now"
  say "$(counted "$1"): $file.json is of another experiment ($changed): run again"
  rm -f "$file.json"
  return 1
}

: "${output:=runs/scaling/$(basename "$config" .yaml)-$mode}"
mkdir -p "$output"
output=$(realpath "$output")
exec 9>>"$output/lock"   # mpirun inherits it: what a killed scaling.sh left behind is not run over
flock --nonblock 9 || fail "another launch/scaling.sh, or an mpirun that it left, is at work in $output." "Wait for it, or choose another --output."

# All that is out of date goes before anything runs: table and picture never mix two experiments.
to_run=()
for ranks in "${counts[@]}"; do
  if describe "$ranks"; then
    if is_done "$ranks"; then continue; fi
  else
    rm -f "$output/scaling-$ranks.json"
  fi
  to_run+=("$ranks")
  if [ -z "$slurm" ]; then rm -f "$output/scaling-$ranks".{plan,job,status,log}; fi   # of a job that is queued they are still needed
done
printf '{"mode": "%s", "ranks": [%s]}\n' "$mode" "$(IFS=, && echo "${counts[*]}")" >"$output/experiment.json"

launched=
be_asked() {
  trap '' INT TERM HUP
  if [ -n "$launched" ]; then kill -TERM "$launched" 2>/dev/null || true; wait "$launched" || true; fi
  if [ -n "$slurm" ]; then
    say "jobs that were submitted go on; launch/scaling.sh --gather $output, or the same command, once they are done" >&2
  else
    say "interrupted; the same command goes on with the counts that have no result" >&2
  fi
  exit "$1"
}
trap 'be_asked 130' INT
trap 'be_asked 143' TERM
trap 'be_asked 129' HUP

run() {  # run RANKS: by mpirun
  local file=$output/scaling-$1 status=0 begin=$SECONDS
  say "$(counted "$1"): ${launcher[*]} -n $1 pimoe bench scaling $config ${keys[*]} --seconds $seconds"
  "${launcher[@]}" -n "$1" "$pimoe" bench scaling "$config" "${keys[@]}" --seconds "$seconds" --json "$file.json" >"$file.log" 2>&1 </dev/null &
  launched=$!
  wait $launched || status=$?
  launched=
  echo "exit status $status" >"$file.status"
  if [ -e "$file.json" ]; then say "$(counted "$1"): done in $((SECONDS - begin)) s"; else say "$(counted "$1"): FAILED, exit status $status, log $file.log" >&2; fi
}

submit() {  # submit RANKS: or say that this very job is in the queue already
  local file=$output/scaling-$1 job listed
  job=$(job_of "$1")
  listed=$(queue) || fail "squeue does not say which jobs there are."
  if [ -n "$job" ] && grep -q "^$job " <<<"$listed"; then
    if plan | cmp -s - "$file.plan"; then say "$(counted "$1"): job $job is in the queue already" && return; fi
    fail "job $job of another experiment is to write $file.json." "scancel $job, wait for it, or choose another --output."
  fi
  rm -f "$file".{job,status,log}
  plan >"$file.plan"
  if job=$(PIMOE_COMMAND="bench scaling" sbatch --parsable --job-name="scaling-$1" --output="$file.log" --no-requeue "${options[@]}" \
    "$launch/slurm.sbatch" "$config" "${keys[@]}" --seconds "$seconds" --json "$file.json" 2>"$file.status" 9>&-); then
    echo "${job%%;*}" >"$file.job"
    say "$(counted "$1"): job ${job%%;*}: sbatch ${options[*]}"
  else
    say "$(counted "$1"): FAILED, $(tr '\n' ' ' <"$file.status")" >&2
  fi
}

# Asked ever more seldom, for Slurm's sake; a squeue that fails says nothing about the jobs.
wait_for_jobs() {
  local pause=1 listed ranks waiting said=
  while :; do
    if listed=$(queue 2>/dev/null); then
      waiting=()
      for ranks in "${to_run[@]}"; do if [ -e "$output/scaling-$ranks.job" ] && grep -q "^$(job_of "$ranks") " <<<"$listed"; then waiting+=("$ranks"); fi; done
      [ ${#waiting[@]} -gt 0 ] || return 0
      if [ "${waiting[*]}" != "$said" ]; then say "waiting for the jobs of ${waiting[*]} ranks" && said=${waiting[*]}; fi
    fi
    sleep $pause 9>&- &   # so that a signal is heard at once; without the lock, which it would hold a while longer
    wait $! || true
    pause=$((pause < 15 ? pause * 2 : 15))
  done
}

for ranks in "${to_run[@]}"; do
  file=$output/scaling-$ranks
  if ! describe "$ranks"; then
    rm -f "$file".{plan,job,log}
    echo "train.global_batch ($global_batch, of $smallest ranks) times $ranks / $smallest is not whole" >"$file.status"
    say "$(counted "$ranks"): FAILED, $(cat "$file.status")" >&2
  elif [ -n "$slurm" ]; then
    submit "$ranks"
  else
    plan >"$file.plan"
    run "$ranks"
  fi
done
if [ -n "$slurm" ]; then wait_for_jobs; fi
say "table and picture: $output/table.md, $output/scaling.svg"
show_results
