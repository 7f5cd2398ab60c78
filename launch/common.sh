# Sourced by the scripts of this folder: where things are, and how progress and failures are shown.
# shellcheck shell=bash disable=SC2034
set -euo pipefail

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
launch=$repository/launch
script=$(basename "$0" .sh)

absolute() { case $1 in /*) printf '%s' "$1" ;; *) printf '%s' "$PWD/$1" ;; esac; }
export PIMOE_DEPS PIMOE_BUILD PIMOE_CUDA
PIMOE_DEPS=$(absolute "${PIMOE_DEPS:-$repository/.deps}")
PIMOE_BUILD=$(absolute "${PIMOE_BUILD:-$repository/build}")
PIMOE_CUDA=${PIMOE_CUDA:-auto}
case $PIMOE_CUDA in
  auto | on | off) ;;
  *) echo "PIMOE_CUDA is '$PIMOE_CUDA', but must be auto, on or off." >&2 && exit 64 ;;
esac

say() { printf '%s: %s\n' "$script" "$*"; }

# fail WHAT [LINE...]: what went wrong, then why and what to do, one line each.
fail() {
  printf '\n%s: FAILED: %s\n' "$script" "$1" >&2
  shift
  if [ $# -gt 0 ]; then printf '  %s\n' "$@" >&2; fi
  exit 1
}

# GPUs that a program started here would see.
gpu_count() {
  if [ -n "${CUDA_VISIBLE_DEVICES+set}" ]; then
    tr ',' '\n' <<<"$CUDA_VISIBLE_DEVICES" | grep -c '[^ -]' || true
  elif command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; then
    nvidia-smi -L | grep -c '^GPU'
  else
    find /dev -maxdepth 1 -name 'nvidia[0-9]*' | wc -l
  fi
}

# hwloc's OpenCL plugin loads PoCL, where that is installed, and LLVM with it, whose handler takes SIGUSR1 from mpirun. Nobody here needs it.
export HWLOC_COMPONENTS=${HWLOC_COMPONENTS:--opencl}

# ask_ranks LAUNCHER PROGRAM: SIGUSR1 for an mpirun, which passes it on, and for those of its children here that run PROGRAM, because not every one
# does. Who is asked twice is asked once. Returns whether there is a launcher.
ask_ranks() {
  local stat line parent
  kill -USR1 "$1" 2>/dev/null || return 1
  for stat in /proc/[0-9]*/stat; do
    { read -r line <"$stat"; } 2>/dev/null || continue  # no process is started for each: there may be thousands
    read -r _ parent _ <<<"${line##*) }"
    [ "$parent" = "$1" ] || continue
    line=$(readlink "${stat%/stat}/exe" 2>/dev/null) || continue
    # The program may have been built again since.
    [ "${line% (deleted)}" != "$(realpath -m "$2")" ] || kill -USR1 "${stat//[^0-9]/}" 2>/dev/null || true
  done
}

# stage TITLE LOG COMMAND...: runs an external command with its output in LOG. Says every 20 seconds how far it is (the log's last line)
# and at the end how long it took. Returns the command's status, after showing the end of the log if it failed.
stage() {
  local title=$1 log=$2 begin=$SECONDS status=0
  shift 2
  mkdir -p "$(dirname "$log")"
  : >"$log"
  say "$title ..."
  "$@" >>"$log" 2>&1 </dev/null &
  local command=$!
  # Reading a pipe that nobody writes to is a sleep without a process that could outlive this shell.
  (while ! read -rt 20 <><(:) && kill -0 $command 2>/dev/null; do
    say "  ... $((SECONDS - begin)) s: $(tail -n 1 "$log" | tr '\r' '\n' | tail -n 1 | cut -c 1-110)"
  done) &
  local heartbeat=$!
  # shellcheck disable=SC2064  # the processes of now
  trap "kill $command $heartbeat 2>/dev/null || true" EXIT
  wait $command || status=$?
  kill $heartbeat 2>/dev/null || true
  wait $heartbeat 2>/dev/null || true
  trap - EXIT
  if [ $status -eq 0 ]; then
    say "$title: done in $((SECONDS - begin)) s"
  else
    say "$title: exit status $status after $((SECONDS - begin)) s; the end of $log:" >&2
    tail -n 25 "$log" | sed 's/^/  | /' >&2
  fi
  return $status
}
