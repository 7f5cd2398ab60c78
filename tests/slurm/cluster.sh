#!/usr/bin/env bash
# A real Slurm of two nodes, n1 and n2, on this one machine, for the tests:
#
#   tests/slurm/cluster.sh up DIR      starts munged, slurmctld and two slurmd, everything of theirs below DIR; then `. DIR/env`
#   tests/slurm/cluster.sh down DIR    ends every job and every process of it; DIR stays, with its logs
#
# Each slurmd lives in mount and UTS namespaces of its own: a host name, a /tmp and a /dev/shm that are its own, as on two machines, or else
# PMIx's folders collide and Open MPI takes the other node's ranks for neighbours. What is in /tmp beforehand is seen by both nodes.
# Needs root, unshare, and slurmctld, slurmd, slurm-client and munge (tests/slurm/run.sh --install gets them). Installs nothing itself.
set -euo pipefail

readonly controller_port=${PIMOE_SLURM_PORT:-17000}  # and the two after it
readonly nodes=(n1 n2)

die() {
  echo "cluster.sh: $*" >&2
  exit 1
}

check_machine() {
  [ "$(id -u)" = 0 ] || die "must run as root (this is user $(id -un)): it starts daemons in namespaces of their own"
  local missing=() tool
  for tool in unshare setsid munged mungekey slurmctld slurmd sbatch; do command -v $tool >/dev/null || missing+=("$tool"); done
  [ ${#missing[@]} = 0 ] || die "not installed: ${missing[*]}; on Debian and Ubuntu: apt-get install slurmctld slurmd slurm-client munge"
  unshare -m -u true 2>/dev/null || die "may not make mount and UTS namespaces (unshare -m -u fails): run the container with CAP_SYS_ADMIN"
  local port
  for port in "$controller_port" $((controller_port + 1)) $((controller_port + 2)); do
    if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
      die "port $port is taken: take an earlier cluster down first, or set PIMOE_SLURM_PORT to the first of three free ports"
    fi
  done
}

write_configuration() {
  local host
  host=$(hostname -s)
  mkdir -p "$dir"/{etc,munge,state,log,pid,node}
  chmod 0755 "$dir" "$dir/munge"  # munged wants its socket to be reachable by all; the key is readable by root alone
  echo "127.0.0.1 localhost $host ${nodes[*]}" >"$dir/etc/hosts"
  # Credentials that expire after 5 s instead of 2 minutes: a requeued job may not start before its old ones have.
  # AuthInfo's socket names the munge of this cluster, so that a munge of the machine's own is left alone.
  cat >"$dir/etc/slurm.conf" <<END
ClusterName=pimoe
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$controller_port
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$dir/munge/socket,cred_expire=5
CredType=cred/munge
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/node/%n/spool
SlurmctldPidFile=$dir/pid/slurmctld.own
SlurmdPidFile=$dir/pid/%n.own
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdLogFile=$dir/log/%n.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_interval=2
KillWait=2
NodeName=n[1-2] NodeHostname=$host NodeAddr=127.0.0.1 Port=[$((controller_port + 1))-$((controller_port + 2))] CPUs=2
PartitionName=test Nodes=n[1-2] Default=YES MaxTime=INFINITE State=UP
END
  # As root, mpirun and the ranks want to be told that this is meant; and both nodes talk over the loopback interface.
  cat >"$dir/env" <<END
export SLURM_CONF=$dir/etc/slurm.conf
export OMPI_MCA_btl_tcp_if_include=lo OMPI_MCA_oob_tcp_if_include=lo
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
END
}

# start NAME COMMAND...: in the background, its process id in DIR/pid/NAME, what it says in DIR/log/NAME.out.
start() {
  local name=$1
  shift
  setsid "$@" >"$dir/log/$name.out" 2>&1 </dev/null &
  echo $! >"$dir/pid/$name"
}

# Runs inside a node's fresh namespaces and becomes its slurmd.
become_node() {
  local node=$1 entry
  hostname "$node"
  for entry in /tmp/*/; do
    case $entry in /tmp/ompi.* | /tmp/pmix* | '/tmp/*/') continue ;; esac  # another job's session folders are what must not be shared
    mkdir -p "$dir/node/$node$entry"
    mount --bind "$entry" "$dir/node/$node$entry" 2>/dev/null || [ ! -d "$entry" ]  # somebody else's may be gone by now
  done
  mount --rbind "$dir/node/$node/tmp" /tmp
  mount -t tmpfs -o mode=1777 tmpfs /dev/shm
  mount --bind "$dir/etc/hosts" /etc/hosts
  exec slurmd -D -N "$node"
}

until_true() {  # until_true SECONDS COMMAND...: polls
  local tries=$(($1 * 10))
  shift
  until "$@"; do
    [ $((tries -= 1)) -gt 0 ] || return 1
    sleep 0.1
  done
}

nodes_are_idle() {
  [ "$(sinfo --noheader --Node --format=%T 2>/dev/null | sort | uniq -c | tr -d ' ')" = "${#nodes[@]}idle" ]
}

up() {
  check_machine
  mkdir -p "$dir"
  dir=$(realpath "$dir")
  case $dir in *[[:space:]]*) die "$dir: Slurm's configuration takes no spaces in a path" ;; esac
  [ ! -e "$dir/etc/slurm.conf" ] || die "$dir holds a cluster already: take it down and remove the folder first"
  trap 'down; exit 1' ERR INT TERM
  write_configuration
  # shellcheck disable=SC1091
  . "$dir/env"
  mungekey --create --keyfile="$dir/munge/key"
  start munged munged --foreground --key-file="$dir/munge/key" --socket="$dir/munge/socket" --pid-file="$dir/munge/pid" \
    --log-file="$dir/log/munged.log" --seed-file="$dir/munge/seed"
  until_true 10 test -S "$dir/munge/socket" || { cat "$dir/log/munged.out" >&2; down; die "munged did not start"; }
  start slurmctld slurmctld -D -c
  local node
  for node in "${nodes[@]}"; do
    mkdir -p "$dir/node/$node/tmp" "$dir/node/$node/spool"
    chmod 1777 "$dir/node/$node/tmp"
    start "$node" unshare -m -u --propagation private "$0" become-node "$dir" "$node"
  done
  until_true 30 nodes_are_idle || { tail -n 5 "$dir"/log/* >&2; down; die "the nodes did not come up within 30 s; logs: $dir/log"; }
  trap - ERR INT TERM
}

no_jobs() {
  [ -z "$(timeout 5 squeue --noheader 2>/dev/null)" ]
}

# Every process in a node's mount namespace is that node's: its slurmd, its step daemons, and whatever a job left behind.
node_processes() {
  local namespace=$1 process
  for process in /proc/[0-9]*; do
    [ "$(readlink "$process/ns/mnt" 2>/dev/null)" != "$namespace" ] || echo "${process#/proc/}"
  done
}

is_gone() { ! kill -0 "$1" 2>/dev/null; }

end_process() {  # TERM, then KILL after 5 s
  kill "$1" 2>/dev/null || return 0
  until_true 5 is_gone "$1" || kill -9 "$1" 2>/dev/null || true
}

down() {
  trap - ERR
  [ -d "$dir/pid" ] || return 0
  dir=$(realpath "$dir")
  # shellcheck disable=SC1091
  . "$dir/env"
  local node pid namespace
  if [ -s "$dir/pid/slurmctld" ] && kill -0 "$(cat "$dir/pid/slurmctld")" 2>/dev/null; then
    timeout 10 scancel --user=root 2>/dev/null || true
    until_true 5 no_jobs || true
  fi
  for node in "${nodes[@]}"; do
    pid=$(cat "$dir/pid/$node" 2>/dev/null) || continue
    namespace=$(readlink "/proc/$pid/ns/mnt" 2>/dev/null) || continue
    # A slurmd that failed before it had a namespace shares this shell's: then only itself is the cluster's.
    end_process "$pid"
    [ "$namespace" = "$(readlink /proc/self/ns/mnt)" ] || node_processes "$namespace" | xargs --no-run-if-empty kill -9 2>/dev/null || true
  done
  for pid in slurmctld munged; do
    [ ! -s "$dir/pid/$pid" ] || end_process "$(cat "$dir/pid/$pid")"
  done
  rm -rf "$dir/pid"
}

[ $# -ge 2 ] || { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"; exit 64; }
dir=$2
case $1 in
  up) up ;;
  down) down ;;
  become-node) become_node "$3" ;;
  *) die "'$1' is neither up nor down" ;;
esac
