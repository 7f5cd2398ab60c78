#!/usr/bin/env bash
# Keeps a training run going: starts it under mpirun, and starts it again after a crash, where it goes on from its newest good checkpoint
# (checkpoint.resume=auto, whatever it was at the first start). Or a server, `pimoe serve`.
#
#   launch/supervise.sh [-n RANKS] [option ...] CONFIG.yaml [key=value ...]
#   launch/supervise.sh [-n RANKS] [option ...] serve --checkpoint PATH [option of pimoe serve ...]
#
#   -n RANKS         ranks to start (2)
#   --attempts N     restarts in a row that brought no newer checkpoint (a server: that lived for less than a minute), after which it gives up (5)
#   --min-ranks M    after two such crashes go on with fewer ranks, the next number that the configuration allows, down to M (RANKS)
#   --hostfile FILE  hosts as for mpirun, best with slots= for each; a host that ranks died or hung on twice, or that was twice not reached,
#                    is left out, as long as slots for M ranks remain
#   --back-off S     seconds before the first restart; doubled with each crash without progress, at most 300 (5)
#   --start-limit S  seconds after which mpirun hangs, and is killed, where no rank has come up: none holds the run folder, or has written its log (600)
#   --linger S       seconds that mpirun may live on after training has ended; then it hangs, and is killed (60)
#   --mpirun "..."   further arguments for mpirun, such as "--bind-to none"
#
# SIGUSR1, SIGTERM, SIGHUP and Ctrl-C ask the run to save and leave, and so does the death of this script; a second Ctrl-C ends the run at
# once, a third one kills mpirun. Ends with the run's exit code: 0 complete, 75 saved and asked to leave (a server: 0); 64, 65 and 78 are never
# tried again; 70 where it gave up.
source "$(dirname "$0")/common.sh"

ranks=2 attempts=5 min_ranks='' hostfile='' back_off=5 start_limit=600 linger=60 mpirun_words=()
usage() { echo "supervise.sh: $*; launch/supervise.sh --help" >&2 && exit 64; }
whole() { [[ $2 =~ ^(0|[1-9][0-9]{0,5})$ ]] && [ "$2" -ge "$3" ] || usage "$1 ($2) must be a whole number of at least $3"; }
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help) sed -n '2,/^source/{/^#/s/^# \{0,1\}//p}' "$0" && exit 0 ;;
    -n | --attempts | --min-ranks | --hostfile | --back-off | --start-limit | --linger | --mpirun)
      [ $# -ge 2 ] || usage "$1 needs a value"
      case $1 in
        -n) whole -n "$2" 1 && ranks=$2 ;;
        --attempts) whole --attempts "$2" 1 && attempts=$2 ;;
        --min-ranks) whole --min-ranks "$2" 1 && min_ranks=$2 ;;
        --back-off) whole --back-off "$2" 0 && back_off=$2 ;;
        --start-limit) whole --start-limit "$2" 1 && start_limit=$2 ;;
        --linger) whole --linger "$2" 1 && linger=$2 ;;
        --hostfile) [ -r "$2" ] || usage "--hostfile ($2) cannot be read"; hostfile=$2 ;;
        --mpirun) read -ra mpirun_words <<<"$2" ;;
      esac
      shift 2
      ;;
    -*) usage "there is no option $1" ;;
    *) break ;;
  esac
done
[ $# -ge 1 ] || usage "no configuration given"
command=train
if [ "$1" = serve ]; then
  shift
  command=serve
  [ -z "$min_ranks" ] || usage "--min-ranks is for training: a server has its ranks or none"
fi
: "${min_ranks:=$ranks}"
[ "$min_ranks" -le "$ranks" ] || usage "--min-ranks ($min_ranks) must be at most the ranks ($ranks)"
pimoe=$PIMOE_BUILD/pimoe
[ -x "$pimoe" ] || fail "$pimoe is not there." "Build it with launch/build.sh, or set PIMOE_BUILD."
if [ -e "$PIMOE_DEPS/env.sh" ]; then source "$PIMOE_DEPS/env.sh"; fi

command -v mpirun >/dev/null || fail "there is no mpirun on the PATH." "Load the Open MPI that $pimoe was built with."

work=$(mktemp -d)
launched='' asked='' signals=0 interrupts=0
trap 'rm -rf "$work"' EXIT
# A signal kills an mpirun whose ranks are not up yet: wait for their first line, and repeat it until the launcher has gone.
ask_to_leave() {
  while kill -0 "$launched" 2>/dev/null && [ ! -s "$work/output" ]; do sleep 0.2; done
  while ask_ranks "$launched" "$pimoe"; do sleep 5; done
}
be_asked() {
  signals=$((signals + 1))
  if [ -z "$asked" ] && [ -n "$launched" ]; then ask_to_leave & fi
  asked=1
}
be_interrupted() {
  be_asked
  interrupts=$((interrupts + 1))
  case $interrupts in
    1) say "asked to save and leave; Ctrl-C again ends the run at once" >&2 ;;
    2) [ -z "$launched" ] || kill -TERM "$launched" || true ;;
    *) [ -z "$launched" ] || kill -KILL "$launched" || true ;;
  esac
}
trap be_asked USR1 TERM HUP
trap be_interrupted INT
leave() {
  if [ $command = serve ]; then say "asked to leave $1" && exit 0; fi
  say "asked to leave $1; the newest checkpoint is ${2:-none}" && exit 75
}
if [ "$(id -u)" = 0 ]; then export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1; fi

# Slots of the hosts that are left. Of a host without a number mpirun counts the cores: here it has as many as are needed.
slots() {
  awk '{ n = 999999; $1 = "" }
       match($0, /[ \t]slots[ \t]*=[ \t]*[0-9]+/) { n = substr($0, RSTART, RLENGTH); sub(/.*=/, "", n) }
       { sum += n } END { print sum + 0 }' "$work/hosts"
}
if [ -n "$hostfile" ]; then
  sed -e 's/#.*//' -e '/^[[:space:]]*$/d' "$hostfile" >"$work/hosts"
  if [ "$(slots)" -lt "$ranks" ] && [[ "${mpirun_words[*]-}" != *oversubscribe* ]]; then
    usage "-n ($ranks) must be at most the slots of --hostfile ($hostfile has $(slots))"
  fi
fi

train=("$@") run=
if [ $command = train ]; then
  config=$("$pimoe" train "$@" --print-config) || exit $?
  run=$(sed -n '/^run:/,/^[a-z]/{s/^  directory: *\(.*[^ ]\)  # .*/\1/p}' <<<"$config" | head -n 1)
fi
if [[ $run == \"*\" ]]; then run=${run:1:-1} && printf -v run %b "${run//\\\"/\\x22}"; fi  # of YAML's escapes printf knows all but \"
newest_step() { [ -z "$run" ] || { find "$run/checkpoints" -maxdepth 1 -name 'step-*' 2>/dev/null || true; } | sed -n 's/.*step-0*\([0-9]\{1,\}\)$/\1/p' | sort -n | tail -n 1; }

# The checkpoints of RUN by name, each with what tells it from another of its name; no clock decides which is newer.
#   saved_in RUN
saved_in() { find "$1/checkpoints" -maxdepth 1 -name 'step-*' ! -name '*.*' -printf '%f %i %T@\n' 2>/dev/null | sort -V; }
# What was saved last since FILE, where a start after the first goes on: `auto` if that is the newest of all. Not what FILE lists: a run that was sent
# back to an older step has left it behind.
#   resume_word RUN FILE
resume_word() {
  local saved newest
  newest=$(saved_in "$1" | tail -n 1)
  saved=$(saved_in "$1" | grep -vxF -f "$2" | tail -n 1)
  if [ -z "$saved" ]; then return; fi
  if [ "$saved" = "$newest" ]; then echo checkpoint.resume=auto; else printf 'checkpoint.resume=%s\n' "$1/checkpoints/${saved%% *}"; fi
}

# Rank 0 holds the locks of RUN and of RUN/lock while it trains, on whatever host it is; the former is left where somebody deletes the latter.
is_training() {
  local status place
  [ -n "$run" ] || return 1  # a server holds none
  for place in "$run/lock" "$run"; do
    status=0
    [ ! -e "$place" ] || flock --nonblock --conflict-exit-code 9 "$place" true 2>/dev/null || status=$?
    [ $status != 9 ] || return 0
  done
  return 1
}
# What rank 0 changes as soon as it is up, on whatever host.
log_of_rank_0() { stat --format '%i %s' "$run/log/rank-0000.log" 2>/dev/null || echo none; }
# Kills a launcher under which no rank comes up, or which lives on after training, or after it has said itself that ranks are gone: Open MPI's can hang
# as it begins and as it ends. Not every file system shows the locks of other hosts. A server has no run folder, and may take long to load.
watch_launcher() {
  local pause=0.2 ended='' lingered=0 tries=0 log_before  # counted in sleeps: no clock that is set may end a run
  log_before=$(log_of_rank_0)
  while sleep $pause && kill -0 "$1" 2>/dev/null; do
    if is_training; then
      pause=1 ended=1 lingered=0
    elif [ -z "$ended" ] && grep -qE 'mpirun noticed that process|MPI_ABORT was invoked|the job has been aborted' "$work/output"; then
      pause=1 ended=1
    elif [ -n "$ended" ] && [ $((lingered += 1)) -ge "$linger" ]; then
      say "training ended $linger s ago (no rank holds $run/lock, or Open MPI said so), but mpirun (process $1) lives on: killed" >&2
      kill -KILL "$1"
    elif [ -n "$run" ] && [ -z "$ended" ] && [ $((tries += 1)) -ge $((5 * start_limit)) ]; then
      if [ "$(log_of_rank_0)" != "$log_before" ]; then tries=0 && continue; fi
      say "no rank has come up within $start_limit s of the start (none holds $run/lock, or has written $run/log/rank-0000.log): mpirun (process $1) is killed" >&2
      kill -KILL "$1"
    fi
  done
}

# Whether mpirun refuses its own arguments (a word that it does not know, too few slots), so that each start would end as the first one did. Not where a
# host was not reached: that may pass. With the fewest ranks, because the run may go on with these.
refuses_to_start() {
  local status=0 unreached='^ssh: |[Rr]emote daemon|start one or more daemons'
  ! grep -qE "$unreached" "$work/output" || return 1
  timeout --kill-after 5 60 mpirun -n "$min_ranks" ${mpirun_words[@]+"${mpirun_words[@]}"} ${hostfile:+--hostfile "$work/hosts"} true \
    </dev/null >"$work/refused" 2>&1 || status=$?
  [ $status = 1 ] && ! grep -qE "$unreached" "$work/refused"
}

# The most ranks, from $1 down to --min-ranks, with a layout that `train` would not refuse; nothing where there is none.
allowed_ranks() {
  local number status
  for ((number = $1; number >= min_ranks; --number)); do
    status=0
    [ "$number" = "$ranks" ] || "$pimoe" check "${train[@]}" --ranks "$number" >/dev/null 2>&1 || status=$?
    if [ $status -le 1 ]; then echo "$number" && return; fi
  done
}

# The hosts that the last start failed on: by PiMoE's own verdict, or else by what ssh and Open MPI say.
failed_hosts() {
  { grep -E 'error: (dead|lost|stopped|hung): rank |memory changed by itself' "$work/output" || true; } | sed 's/\. waiting: .*//' |
    { grep -oE 'rank [0-9]+ \([^,()]+' || true; } | sed 's/.*(//' | sort -u >"$work/failed"
  [ -s "$work/failed" ] || sed -n -e 's/^ssh: connect to host \([^ ]*\) port .*/\1/p' -e 's/^ssh: Could not resolve hostname \([^ :]*\):.*/\1/p' \
    -e 's/^ *Remote daemon: .* on node \([^ ]*\).*/\1/p' -e 's/.* on node \([^ ]*\) exited on signal.*/\1/p' "$work/output" | sort -u >"$work/failed"
  cat "$work/failed"
}
# is_host NAME ENTRY: whether a host that goes by NAME is this entry of the hostfile, which may have a user, a domain, or be an address.
is_host() {
  local entry=${2#*@}
  [ "$1" != "$entry" ] || return 0
  if [[ $entry =~ ^[0-9.]+$ ]]; then getent ahostsv4 "$1" | grep -q "^${entry//./\\.} "; else [ "${1%%.*}" = "${entry%%.*}" ]; fi
}
# Leaves out hosts that failed twice, as long as the others have slots for ranks that the configuration allows. Returns whether there was one.
leave_out_hosts() {
  local entry host most found=1
  for entry in $(awk '{ print $1 }' "$work/hosts" | sort -u); do
    for host in $(failed_hosts); do if is_host "$host" "$entry"; then echo "$entry" >>"$work/failures" && break; fi; done
    [ "$(grep -cxF -e "$entry" "$work/failures")" -ge 2 ] || continue
    cp "$work/hosts" "$work/all"
    awk -v entry="$entry" '$1 != entry' "$work/all" >"$work/hosts"
    most=$(allowed_ranks "$(($(slots) < ranks ? $(slots) : ranks))")
    if [ -n "$most" ]; then
      say "host $entry failed twice and is left out: going on with $most ranks" >&2
      ranks=$most found=0
    else
      say "host $entry failed twice, but the others have $(slots) slots, too few for --min-ranks ($min_ranks): it stays" >&2
      cp "$work/all" "$work/hosts"
    fi
  done
  return $found
}

crashes=0 total=0 begin=$SECONDS
: >"$work/failures"
[ -z "$run" ] || saved_in "$run" >"$work/begun" || true
# What this script reads of a run's output: all of it; of a server, which says a line for each request as long as it lives, what may matter.
keep_output() {
  if [ $command = train ]; then exec tee -p "$work/output"; fi
  exec tee -p >(exec grep --line-buffered -E 'serving |error: |monitor\.alerts|mpirun noticed|MPI_ABORT|aborted|ssh: |Remote daemon|on node ' >"$work/output")
}
while :; do
  before=$(newest_step)
  [ -z "$asked" ] || leave "before the start" "$before"
  launcher=(mpirun -n "$ranks" ${mpirun_words[@]+"${mpirun_words[@]}"})
  if [ -n "$hostfile" ]; then launcher+=(--hostfile "$work/hosts"); fi
  # `none` and a path of checkpoint.resume say where a run begins: what it has saved since is where it goes on.
  resume=()
  if [ $total -gt 0 ] && [ -n "$run" ]; then
    word=$(resume_word "$run" "$work/begun")
    [ -z "$word" ] || resume=("$word")
  fi
  if [ $command = serve ]; then
    say "start $((total + 1)): $ranks ranks serve"
  else
    say "start $((total + 1)): $ranks ranks, from ${before:+step }${before:-the beginning}"
  fi
  started=$SECONDS
  : >"$work/output"
  # In a session of its own, where the terminal's Ctrl-C does not end it before the ranks have saved; asked to leave if this script is killed.
  exec {sink}> >(trap '' INT HUP TERM USR1 && keep_output)
  tee=$!
  setsid setpriv --pdeathsig USR1 "${launcher[@]}" "$pimoe" $command "$@" ${resume[@]+"${resume[@]}"} >&"$sink" 2>&1 {sink}>&- &
  launched=$!
  exec {sink}>&-
  if [ -n "$asked" ]; then ask_to_leave & fi
  watch_launcher $launched &
  while :; do
    heard=$signals status=0
    wait $launched 2>/dev/null || status=$?
    [ $signals != $heard ] || break  # or else a signal ended `wait`, not the launcher
  done
  launched=
  for ((tries = 0; tries < 50; ++tries)); do kill -0 $tee 2>/dev/null && sleep 0.1 || break; done  # the last lines say who died
  case $status in
    0) say "$([ $command = serve ] && echo "left in good order" || echo complete) after $total restarts, $((SECONDS - begin)) s" && exit 0 ;;
    1)  # a rank's; or mpirun's own, after which it is tried again
      if [ $command = serve ] && grep -q 'an alert stopped the server' "$work/output"; then
        say "an alert stopped the server (monitor.alerts): look at it before you start it again" >&2 && exit 1
      fi
      if tail -n 1 "$run/events.jsonl" 2>/dev/null | grep -q '"event":"stopped_by_alert"'; then
        say "an alert stopped the run (monitor.alerts): look at it before you start it again" >&2 && exit 1
      fi
      if [ $total = 0 ] && [ -z "$asked" ] && refuses_to_start; then
        say "mpirun refuses to start even \`true\` with -n $min_ranks ${mpirun_words[*]-}${hostfile:+ --hostfile $hostfile}, for the reason above:" \
          "starting again would not help" >&2 && exit 64
      fi
      ;;
    64 | 65 | 78) say "exit code $status: starting again would not help" >&2 && exit "$status" ;;
    75)
      if [ -n "$asked" ]; then say "asked to leave, and saved" && exit 75; fi
      say "saved and left without being asked from here (run.walltime, or a signal to its ranks): leaving too" && exit 75
      ;;
  esac
  after=$(newest_step)
  if [ -n "$asked" ]; then
    [ "$status" != 138 ] || leave "before training had begun" "$after"  # 128 + USR1
    say "asked to leave; the run ended with $status" && exit "$status"
  fi
  progress="brought a newer checkpoint"
  if [ $command = serve ]; then progress="served for a minute"; fi
  if [ "${after:-0}" -gt "${before:-0}" ] || { [ $command = serve ] && [ $((SECONDS - started)) -ge 60 ]; }; then crashes=0; fi
  crashes=$((crashes + 1)) total=$((total + 1))
  if [ $command = serve ]; then
    say "the server ended with $status after $((SECONDS - started)) s" >&2
  else
    say "the run ended with $status (crash $crashes without a newer checkpoint; newest is ${after:-none})" >&2
  fi
  if [ $crashes -gt "$attempts" ]; then say "giving up: none of $attempts restarts $progress" >&2 && exit 70; fi

  if [ -n "$hostfile" ] && leave_out_hosts; then
    crashes=1
  elif [ $crashes -ge 2 ]; then
    fewer=$(allowed_ranks $((ranks - 1)))
    if [ -n "$fewer" ]; then say "going on with $fewer ranks instead of $ranks" >&2 && ranks=$fewer; fi
  fi
  pause=$((back_off << (crashes < 7 ? crashes - 1 : 6)))
  [ $pause -le 300 ] || pause=300
  say "starting again in $pause s" >&2
  # Longer, where ranks of the last start still hold the run folder: those of the next one would be refused.
  waited=0
  while [ $waited -lt $pause ] || { [ $waited -lt "$linger" ] && is_training; }; do
    [ -z "$asked" ] || leave "between two starts" "$after"
    sleep 1 || true
    waited=$((waited + 1))
  done
done
