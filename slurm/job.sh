# shellcheck shell=bash
# The life of a training job; the batch scripts set NEOX, NEOX_TRAIN, CONFIGS, RUN_DIR, MAX_RESTARTS
# and MAX_FAILURES and source this file with the arguments they were given. It does not return.
#
# What neox_train's exit codes lead to:
#   0             finished: the job ends with 0
#   84            the preflight (PREFLIGHT) found slow nodes: it trains, or with strict ends with 84
#   1             the input or the run is wrong: the job ends with 1
#   85            stopped and saved: requeued, up to MAX_RESTARTS
#   anything else a rank, a node or the launch failed: requeued, unless MAX_FAILURES of them in a row
#                 brought no new checkpoint
# A job that is not requeued ends with neox_train's code. REQUEUE=no (slurm/chain.sh): never requeue.
#
# Signals to the batch shell: USR1 (time limit) saves and requeues; USR2 saves and leaves for good
# (scancel --batch --signal=USR2 JOB); TERM (scancel, preemption) saves, if KillWait is enough.
set -uo pipefail

readonly SLOW=84 STOPPED=85 LAUNCH_FAILED=87
why=  # time_limit, leave or cancelled: the signal that came
interrupted=
step=

say() { echo "$(date '+%F %T') job ${SLURM_JOB_ID}: $*"; }

give_up() {  # CODE REASON
  say "$2; not requeued, exit code $1"
  exit "$1"
}

# The step must know; `wait` ends when a trap ran.
# shellcheck disable=SC2317 # called by traps
on_signal() {  # MEANING [SIGNAL FOR THE STEP]
  why=$1 interrupted=1
  say "signal ($1)"
  if [ -n "$step" ] && [ -n "${2:-}" ]; then kill -s "$2" "$step" 2>/dev/null; fi
}
trap 'on_signal time_limit USR1' USR1
trap 'on_signal leave USR1' USR2
trap 'on_signal cancelled' TERM  # the ranks got it from slurm

newest_checkpoint() {
  local newest=none file
  for file in "$RUN_DIR"/step*.h5; do [ -e "$file" ] && newest=${file##*/}; done
  echo "$newest"
}

# Failures in a row since the checkpoint that is the newest now.
count_failure() {
  local count=0 at='' now
  now=$(newest_checkpoint)
  [ -r "$RUN_DIR/failures" ] && read -r count at <"$RUN_DIR/failures"
  [ "$at" = "$now" ] || count=0
  echo "$((count + 1)) $now" >"$RUN_DIR/failures"
  echo $((count + 1))
}

requeue() {  # CODE REASON
  local restarts=${SLURM_RESTART_COUNT:-0} job=$SLURM_JOB_ID
  # The number of an array's last task is also that of the whole array.
  [ -z "${SLURM_ARRAY_TASK_ID:-}" ] || job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
  [ "${REQUEUE:-yes}" = yes ] || give_up "$1" "$2"
  [ "$restarts" -lt "$MAX_RESTARTS" ] || give_up "$1" "$2; $restarts restarts were made (MAX_RESTARTS)"
  say "$2; requeueing, restart $((restarts + 1)) of $MAX_RESTARTS"
  trap '' TERM  # what the requeue sends must not end scontrol
  scontrol requeue "$job" || give_up "$1" "$2; scontrol requeue failed"
  exit "$1"
}

run_step() {  # OPTION...: sets code
  local options=() config
  for config in $CONFIGS; do options+=(--config "$config"); done
  options+=(--checkpoint.save "$RUN_DIR")
  [ -z "${SLURM_ARRAY_TASK_ID:-}" ] || options+=(--train.seed "$SLURM_ARRAY_TASK_ID")
  # srun's own failures must not look like neox_train's.
  # --wait ends the ranks that a lost one left behind; --kill-on-bad-exit would also kill those that
  # leave with 85 a little later than the first.
  export SLURM_EXIT_ERROR=$LAUNCH_FAILED OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}
  srun --mpi=pmix --wait=20 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" \
    "$NEOX_TRAIN" "${options[@]}" "$@" </dev/null &
  step=$!
  while :; do
    interrupted=
    wait "$step"
    code=$?
    [ -n "$interrupted" ] || break
  done
  step=
}

# Fails with a code that is neither good nor the end: a rank was lost, or a signal came.
check_nodes() {  # OPTION...
  [ "$PREFLIGHT" != no ] || return 0
  run_step --preflight "$@"
  case $code in
    0) ;;
    1) give_up 1 "the preflight found errors (above)" ;;
    "$SLOW")
      [ "$PREFLIGHT" != strict ] || give_up $SLOW "the preflight found slow nodes (above)"
      say "trains, with slow nodes (above)" ;;
    *) return 1 ;;
  esac
}

PREFLIGHT=${PREFLIGHT:-yes}
case $PREFLIGHT in
  yes | strict | no) ;;
  *) give_up 1 "PREFLIGHT=$PREFLIGHT: expected yes, strict or no" ;;
esac
cd "$NEOX" || give_up 1 "NEOX=$NEOX is not a folder on $(hostname)"
[ -x "$NEOX_TRAIN" ] || give_up 1 "NEOX_TRAIN=$NEOX_TRAIN is not a program on $(hostname); build it"
[ -z "${SLURM_ARRAY_TASK_ID:-}" ] || RUN_DIR=$RUN_DIR/seed$SLURM_ARRAY_TASK_ID
mkdir -p "$RUN_DIR" || give_up 1 "RUN_DIR=$RUN_DIR cannot be made"
say "start ${SLURM_RESTART_COUNT:-0} on ${SLURM_JOB_NODELIST:-$(hostname)}; newest checkpoint: $(newest_checkpoint)"

# neox_train leaves before the job's end by itself; older slurms do not say when that is.
if [ -z "${SLURM_JOB_END_TIME:-}" ]; then
  SLURM_JOB_END_TIME=$(date -d "$(squeue -h -j "$SLURM_JOB_ID" -o %e)" +%s 2>/dev/null) || SLURM_JOB_END_TIME=
  export SLURM_JOB_END_TIME
fi

# Before the first step there is nothing to save: a signal then means stopped.
code=$STOPPED
if [ -z "$why" ]; then
  check_nodes "$@" && checked=1 || checked=
  if [ -n "$why" ]; then
    code=$STOPPED
  elif [ -n "$checked" ]; then
    run_step "$@"
  fi
fi
# srun dies of USR1 when it comes before the ranks run.
[ "$code.$why" != 138.time_limit ] || code=$STOPPED

case $code in
  0) say "finished"; rm -f "$RUN_DIR/failures"; exit 0 ;;
  1) give_up 1 "neox_train ended with an error that a restart would meet again" ;;
esac
case $why in
  leave) give_up "$code" "asked to save and leave" ;;
  cancelled) give_up "$code" "cancelled" ;;
esac
if [ "$code" -eq $STOPPED ]; then
  rm -f "$RUN_DIR/failures"
  requeue "$code" "stopped with its state saved"
fi
failures=$(count_failure)
[ "$failures" -lt "$MAX_FAILURES" ] ||
  give_up "$code" "exit code $code; $failures failures in a row without a new checkpoint (MAX_FAILURES)"
requeue "$code" "exit code $code, failure $failures in a row"
