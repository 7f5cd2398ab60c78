#!/usr/bin/env bash
# Keeps a training run going: starts it under mpirun, and starts it again after a crash, where it goes on from its newest good checkpoint.
#
#   launch/supervise.sh [-n RANKS] [option ...] CONFIG.yaml [key=value ...]
#
#   -n RANKS         ranks to start (2)
#   --attempts N     crashes in a row without a newer checkpoint after which it gives up (5)
#   --min-ranks M    after two such crashes go on with fewer ranks, the next number that the configuration allows, down to M (RANKS)
#   --hostfile FILE  hosts as for mpirun; a host on which a rank died twice is left out, as long as enough slots remain
#   --back-off S     seconds before the first restart; doubled with each crash without progress, at most 300 (5)
#   --mpirun "..."   further arguments for mpirun, such as "--bind-to none"
#
# SIGUSR1, SIGTERM and Ctrl-C ask the run to save and leave. Ends with the run's exit code: 0 complete, 75 saved and asked to leave; 64, 65
# and 78 are never tried again; 70 where it gave up.
source "$(dirname "$0")/common.sh"

ranks=2 attempts=5 min_ranks='' hostfile='' back_off=5 mpirun_words=()
usage() { echo "supervise.sh: $*; launch/supervise.sh --help" >&2 && exit 64; }
whole() { [[ $2 =~ ^[0-9]{1,6}$ ]] && [ "$2" -ge "$3" ] || usage "$1 ($2) must be a whole number of at least $3"; }
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help) sed -n '2,/^source/{/^#/s/^# \{0,1\}//p}' "$0" && exit 0 ;;
    -n | --attempts | --min-ranks | --hostfile | --back-off | --mpirun)
      [ $# -ge 2 ] || usage "$1 needs a value"
      case $1 in
        -n) whole -n "$2" 1 && ranks=$2 ;;
        --attempts) whole --attempts "$2" 1 && attempts=$2 ;;
        --min-ranks) whole --min-ranks "$2" 1 && min_ranks=$2 ;;
        --back-off) whole --back-off "$2" 0 && back_off=$2 ;;
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
: "${min_ranks:=$ranks}"
[ "$min_ranks" -le "$ranks" ] || usage "--min-ranks ($min_ranks) must be at most the ranks ($ranks)"
pimoe=$PIMOE_BUILD/pimoe
[ -x "$pimoe" ] || fail "$pimoe is not there." "Build it with launch/build.sh, or set PIMOE_BUILD."
if [ -e "$PIMOE_DEPS/env.sh" ]; then source "$PIMOE_DEPS/env.sh"; fi

work=$(mktemp -d)
launched='' asked='' signals=0
trap 'rm -rf "$work"' EXIT
# A signal kills an mpirun whose ranks are not up yet: wait for their first line, and repeat it until the launcher has gone.
ask_to_leave() {
  while kill -0 "$launched" 2>/dev/null && [ ! -s "$work/output" ]; do sleep 0.2; done
  while kill -USR1 "$launched" 2>/dev/null; do sleep 5; done
}
trap 'asked=1; signals=$((signals + 1)); [ -z "$launched" ] || ask_to_leave &' USR1 TERM INT
if [ "$(id -u)" = 0 ]; then export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1; fi
if [ -n "$hostfile" ]; then grep -vE '^[[:space:]]*(#|$)' "$hostfile" >"$work/hosts"; fi

config=$("$pimoe" train "$@" --print-config) || exit $?
run=$(sed -n '/^run:/,/^[a-z]/s/^  directory: *\("\{0,1\}\)\([^"#]*[^"# ]\)\1.*/\2/p' <<<"$config" | head -n 1)
newest_step() { { find "$run/checkpoints" -maxdepth 1 -name 'step-*' 2>/dev/null || true; } | sed -n 's/.*step-0*\([0-9]\{1,\}\)$/\1/p' | sort -n | tail -n 1; }
# A layout that `train` would refuse is no layout to fall back to.
is_valid() { local status=0; "$pimoe" check "$@" >/dev/null 2>&1 || status=$?; [ $status -le 1 ]; }
# Slots of the hosts that are left; a host without a number has one.
slots() { awk '{ n = 1; for (i = 2; i <= NF; ++i) if ($i ~ /^slots=/) { split($i, a, "="); n = a[2] } sum += n } END { print sum + 0 }' "$work/hosts"; }

crashes=0 total=0 begin=$SECONDS
while :; do
  before=$(newest_step)
  command=(mpirun -n "$ranks" ${mpirun_words[@]+"${mpirun_words[@]}"})
  if [ -n "$hostfile" ]; then command+=(--hostfile "$work/hosts"); fi
  say "start $((total + 1)): $ranks ranks, from ${before:+step }${before:-the beginning}"
  : >"$work/output"
  "${command[@]}" "$pimoe" train "$@" > >(tee "$work/output") 2>&1 &
  launched=$!
  while :; do
    heard=$signals status=0
    wait $launched || status=$?
    [ $signals != $heard ] || break  # or else a signal ended `wait`, not the launcher
  done
  launched=
  case $status in
    0) say "complete after $total restarts, $((SECONDS - begin)) s" && exit 0 ;;
    64 | 65 | 78) say "exit code $status: starting again would not help" >&2 && exit "$status" ;;
    75)
      if [ -n "$asked" ]; then say "asked to leave, and saved" && exit 75; fi
      say "saved and left without being asked from here (run.walltime, or a signal to its ranks): leaving too" && exit 75
      ;;
  esac
  if [ -n "$asked" ]; then say "asked to leave; the run ended with $status" && exit "$status"; fi
  after=$(newest_step)
  if [ "${after:-0}" -gt "${before:-0}" ]; then crashes=0; fi
  crashes=$((crashes + 1)) total=$((total + 1))
  say "the run ended with $status (crash $crashes without a newer checkpoint; newest is ${after:-none})" >&2

  if [ -n "$hostfile" ]; then
    # Open MPI: "... on node NAME exited on signal 9"; PiMoE names the host of memory that changed by itself.
    sed -n -e 's/.* on node \([^ ]*\) exited on signal.*/\1/p' -e 's/.*memory changed by itself.*rank [0-9]* (\([^)]*\)).*/\1/p' "$work/output" |
      sort -u >>"$work/deaths"
    for host in $(sort "$work/deaths" | uniq -c | awk '$1 >= 2 { print $2 }'); do
      if grep -q "^$host\b" "$work/hosts" && cp "$work/hosts" "$work/all" && sed -i "/^$host\b/d" "$work/hosts"; then
        if [ "$(slots)" -ge "$min_ranks" ]; then
          say "host $host is left out: ranks died there twice" >&2
          if [ "$(slots)" -lt "$ranks" ]; then ranks=$(slots); fi
        else
          cp "$work/all" "$work/hosts"
        fi
      fi
    done
  fi
  if [ $crashes -gt "$attempts" ]; then say "giving up: $attempts restarts brought no newer checkpoint" >&2 && exit 70; fi
  if [ $crashes -ge 2 ] && [ "$ranks" -gt "$min_ranks" ]; then
    for ((fewer = ranks - 1; fewer >= min_ranks; --fewer)); do
      if is_valid "$@" --ranks "$fewer"; then
        say "going on with $fewer ranks instead of $ranks" >&2
        ranks=$fewer
        break
      fi
    done
  fi
  pause=$((back_off << (crashes < 7 ? crashes - 1 : 6)))
  [ $pause -le 300 ] || pause=300
  say "starting again in $pause s" >&2
  for ((left = pause; left > 0; --left)); do [ -n "$asked" ] && exit 75; sleep 1; done
done
