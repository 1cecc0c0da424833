#!/usr/bin/env bash
# A real SLURM cluster on this machine, for tests: munged, slurmctld and a slurmd for each of a
# number of nodes, all in one folder; nothing under /etc is touched, and all addresses are 127.0.0.1.
#
#   cluster.sh missing            what is needed and absent, one line each
#   cluster.sh start FOLDER       brings it up: NODES (12), CPUS (64) and GPUS (8) for each node
#   cluster.sh env FOLDER         the environment for jobs, for eval
#   cluster.sh kill-node FOLDER NODE
#   cluster.sh on-node FOLDER NODE COMMAND...   among the node's own mounts
#   cluster.sh stop FOLDER        ends every process that start made
#
# A node is a set of namespaces: own host name, /dev/shm and processes. Without them Open MPI takes
# all ranks for neighbours on one node. When its first process dies, the kernel kills the others:
# so fails a node.
set -euo pipefail

die() { echo "cluster: $*" >&2; exit 1; }

missing() {
  local program
  for program in munged slurmctld slurmd sbatch; do
    command -v $program >/dev/null || echo "$program (./setup.sh --slurm)"
  done
  [[ $(ldconfig -p) == *'libpmix.so '* ]] || echo "libpmix.so (./setup.sh --slurm)"
  [ "$(id -u)" -eq 0 ] || { echo "root, for namespaces"; return; }
  unshare --uts --mount --pid --fork --mount-proc --propagation private \
    mount -t tmpfs tmpfs /dev/shm 2>/dev/null || echo "namespaces (unshare and mount are refused)"
}

# A process that ended but waits for its parent has no command line.
alive() { [ -s "$1" ] && grep -aqs . "/proc/$(cat "$1")/cmdline"; }
await() {  # SECONDS COMMAND...
  local end=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -le $end ] || return 1
    sleep 0.1
  done
}
gone() { ! alive "$1"; }

free_ports() {  # COUNT: the first of so many
  local first=$((20000 + RANDOM % 10000)) port
  for ((port = first; port < first + $1; port++)); do
    if (: </dev/tcp/127.0.0.1/$port) 2>/dev/null; then
      free_ports "$1"
      return
    fi
  done
  echo $first
}

write_configuration() {
  local nodes=${NODES:-12} cpus=${CPUS:-64} gpus=${GPUS:-8} port gpu
  port=$(free_ports $((nodes + 1)))
  mkdir -p "$dir"/{run,log,state,spool,tmp,gpu}
  echo "$nodes" >"$dir/nodes"
  (umask 077; head -c 128 /dev/urandom >"$dir/munge.key")
  # slurmd wants device files: these are /dev/null.
  for ((gpu = 0; gpu < gpus; gpu++)); do mknod -m 666 "$dir/gpu/gpu$gpu" c 1 3; done
  echo "NodeName=node[1-$nodes] Name=gpu File=$dir/gpu/gpu[0-$((gpus - 1))]" >"$dir/gres.conf"
  {
    echo "127.0.0.1 localhost $(hostname -s)"
    for ((node = 1; node <= nodes; node++)); do echo "127.0.0.1 node$node"; done
  } >"$dir/hosts"
  # cred_expire is how long a requeued job waits (less than 5 is taken for 120). The PMIx plugin
  # keeps a folder for each step in TmpFS, which nodes must not share. No cgroups: processes are
  # tracked by parentage.
  cat >"$dir/slurm.conf" <<CONF
ClusterName=neox_test
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmctldPort=$port
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$dir/run/munge.sock,cred_expire=5
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool/%n
TmpFS=$dir/tmp/%n
SlurmctldPidFile=$dir/run/slurmctld.pid
SlurmdPidFile=$dir/run/%n.slurmd.pid
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdLogFile=$dir/log/%n.slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=1,sched_interval=1,bf_interval=2
PriorityType=priority/basic
ReturnToService=2
SlurmdParameters=config_overrides
SlurmdTimeout=10
MessageTimeout=10
KillWait=10
MinJobAge=600
GresTypes=gpu
NodeName=node[1-$nodes] NodeHostname=node[1-$nodes] NodeAddr=127.0.0.1 Port=[$((port + 1))-$((port + nodes))] CPUs=$cpus RealMemory=1000000 Gres=gpu:$gpus State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
}

start_node() {
  mkdir -p "$dir/spool/$1" "$dir/tmp/$1"
  # shellcheck disable=SC2016 # expanded inside
  setsid unshare --uts --mount --pid --fork --mount-proc --propagation private bash -c '
    hostname "$1"
    mount --bind "$2/hosts" /etc/hosts
    mount -t tmpfs -o mode=1777 tmpfs /dev/shm
    trap "kill \$daemon; wait \$daemon; exit 0" TERM
    nice -n 5 slurmd -D -N "$1" & daemon=$!
    wait $daemon' node "$1" "$dir" </dev/null >"$dir/log/$1.out" 2>&1 &
  echo $! >"$dir/run/$1.pid"
}

end_node() {  # NODE SIGNAL
  local pid=$dir/run/$1.pid top
  alive "$pid" || return 0
  top=$(cat "$pid")
  # Its child is process 1 of the namespace.
  pkill "-$2" -P "$top" || true
  await 5 gone "$pid" || { pkill -KILL -P "$top" || true; kill -KILL "$top" 2>/dev/null || true; }
}

on_node() {  # NODE COMMAND...
  local node=$1
  shift
  nsenter --mount --pid --uts --target "$(pgrep -P "$(cat "$dir/run/$node.pid")" | head -n 1)" "$@"
}

all_idle() { [ "$(sinfo -h -N -o %T | grep -c '^idle$')" -eq "$(cat "$dir/nodes")" ]; }

start() {
  [ -z "$(missing)" ] || die "missing: $(missing)"
  [ ! -e "$dir/slurm.conf" ] || die "$dir has a cluster already"
  write_configuration
  munged --key-file="$dir/munge.key" --socket="$dir/run/munge.sock" --force \
    --pid-file="$dir/run/munged.pid" --log-file="$dir/log/munged.log" --seed-file="$dir/run/seed"
  await 10 munge -n -S "$dir/run/munge.sock" || die "munged does not answer ($dir/log)"
  setsid slurmctld </dev/null >"$dir/log/slurmctld.out" 2>&1 || die "slurmctld: $(cat "$dir/log/slurmctld.out")"
  await 20 sh -c 'scontrol ping | grep -q UP' || die "slurmctld does not answer ($dir/log)"
  local node
  for ((node = 1; node <= $(cat "$dir/nodes"); node++)); do start_node "node$node"; done
  await 40 all_idle || { sinfo -N -l; die "not every node came up ($dir/log)"; }
}

stop() {
  local node daemon
  [ -e "$dir/nodes" ] || return 0
  for ((node = 1; node <= $(cat "$dir/nodes"); node++)); do end_node "node$node" KILL & done
  wait
  for daemon in slurmctld munged; do
    if alive "$dir/run/$daemon.pid"; then
      kill "$(cat "$dir/run/$daemon.pid")" || true
      await 10 gone "$dir/run/$daemon.pid" || kill -KILL "$(cat "$dir/run/$daemon.pid")" || true
    fi
  done
}

print_env() {
  cat <<ENV
export SLURM_CONF=$dir/slurm.conf
export OMPI_MCA_btl_tcp_if_include=lo OMPI_MCA_oob_tcp_if_include=lo
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export OMPI_MCA_mpi_yield_when_idle=1 OMPI_MCA_hwloc_base_binding_policy=none
ENV
}

dir=${2:-}
export SLURM_CONF=$dir/slurm.conf
case ${1:-}.$# in
  missing.1) missing ;;
  start.2) start ;;
  env.2) print_env ;;
  kill-node.3) end_node "$3" KILL ;;
  on-node.*) [ $# -ge 4 ] || die "on-node FOLDER NODE COMMAND..."; on_node "${@:3}" ;;
  stop.2) stop ;;
  *) sed -n '2,/^set -e/{/^#/s/^# \{0,1\}//p}' "$0" >&2; exit 2 ;;
esac
