#!/usr/bin/env bash
# The batch scripts of slurm/ on a real SLURM cluster of 12 nodes on this machine (cluster.sh), with a
# small model on the CPU.
#
#   slurm_test.sh PROGRAMS     the folder of neox_train and neox_preprocess
#
# Exit code 77: skipped, because something is missing; a failure with NEOX_REQUIRE_SLURM=1.
set -euo pipefail

source_dir=$(cd "$(dirname "$0")/../.." && pwd)
programs=$(cd "$1" && pwd)
cluster=$source_dir/tests/slurm/cluster.sh

missing=$("$cluster" missing | paste -sd ';')
if [ -n "$missing" ]; then
  echo "SKIPPED: a SLURM cluster cannot be started here; missing: $missing"
  [ "${NEOX_REQUIRE_SLURM:-0}" = 1 ] && exit 1
  exit 77
fi

work=$(mktemp -d /tmp/neox-slurm-XXXXXX)
finish() {
  local code=$?
  "$cluster" stop "$work/cluster" || true
  if [ $code -eq 0 ]; then rm -rf "$work"; else echo "kept for inspection: $work"; fi
}
trap finish EXIT
trap 'exit 143' TERM INT

failures=0
bad() { echo "FAILED: $*"; failures=$((failures + 1)); }
passed() { printf '%4d s  ok: %s\n' $SECONDS "$*"; }
check() {  # WHAT COMMAND...
  local what=$1
  shift
  if "$@"; then passed "$what"; else bad "$what ($*)"; fi
}
await() {  # SECONDS WHAT COMMAND...; a failure ends the test, because the rest depends on it
  local end=$((SECONDS + $1)) what=$2
  shift 2
  until "$@"; do
    if [ $SECONDS -gt $end ]; then
      bad "$what: not within the time"
      squeue -o '%i %T %r %S' || true
      tail -n 5 "$work"/*.out || true
      exit 1
    fi
    sleep 0.2
  done
}

# ---- the cluster, data, a small model ------------------------------------------------------------
mkdir "$work/cluster"
"$cluster" start "$work/cluster"
eval "$("$cluster" env "$work/cluster")"
passed "cluster of $(sinfo -h -o %D) nodes is up"

cd "$work"
perl -MJSON::PP -00 -ne 'print encode_json({text => $_}), "\n"' "$source_dir/LICENSE" >corpus.jsonl
"$programs/neox_preprocess" --input corpus.jsonl --output-prefix corpus --tokenizer-type CharLevelTokenizer \
  --append-eod >preprocess.log 2>&1
cat >tiny.ini <<INI
[model]
num_layers = 4
hidden_size = 32
num_attention_heads = 4
seq_length = 32
rotary_pct = 0.25
gpt_j_residual = true
no_weight_tying = true
hidden_dropout = 0.1
[precision]
precision = fp32
[batch]
train_batch_size = 8
train_micro_batch_size_per_gpu = 2
[optimizer]
lr = 0.001
[train]
train_iters = 150
eval_interval = 0
[system]
device = cpu
[data]
data_path = $work/corpus_text_document
split = 90,10,0
[tokenizer]
tokenizer_type = CharLevelTokenizer
[checkpoint]
checkpoint_factor = 1000000
INI

export NEOX=$source_dir NEOX_TRAIN=$programs/neox_train CONFIGS=$work/tiny.ini
layout_20b=(--parallel.model_parallel_size 2 --parallel.pipe_parallel_size 2)
endless=(--train.train_iters 50000 --schedule.lr_decay_iters 1000)

# Preflights would make every start longer; those that are tested ask for them.
export PREFLIGHT=no

# Two ranks on two nodes unless the arguments say otherwise. Prints the job's number.
submit() {  # RUN SCRIPT-AND-OPTIONS...
  local run=$1
  shift
  RUN_DIR=$work/$run sbatch --parsable --nodes=2 --ntasks-per-node=1 --cpus-per-task=1 \
    --output="$work/$run.out" "$@"
}
state() { scontrol show job "$1" -o | sed -n 's/.* JobState=\([A-Z_]*\) .*/\1/p'; }
restarts() { scontrol show job "$1" -o | sed -n 's/.* Restarts=\([0-9]*\) .*/\1/p'; }
exit_code() { scontrol show job "$1" -o | sed -n 's/.* ExitCode=\([0-9]*\):.*/\1/p'; }
is() { [[ $(state "$1") =~ ^($2)$ ]]; }  # JOB STATES
restarted() { [ "$(restarts "$1")" -ge "$2" ]; }
ended() { is "$1" 'COMPLETED|FAILED|CANCELLED|TIMEOUT|NODE_FAIL'; }
last_step() { tail -n 1 "$1/metrics.jsonl" 2>/dev/null | sed -n 's/.*"step":\([0-9]*\).*/\1/p'; }
trained() { local step; step=$(last_step "$work/$1"); [ "${step:-0}" -ge "$2" ]; }  # RUN STEP
newest() { find "$work/$1" -name "step*.h5" -printf "%f\n" 2>/dev/null | sort | tail -n 1 | sed 's/step0*\([0-9]*\)\.h5/\1/'; }
losses() { sed -n 's/.*"step":\([0-9]*\).*"train\/lm_loss":\([^,}]*\).*/\1 \2/p;t;s/.*"train\/lm_loss":\([^,}]*\).*"step":\([0-9]*\).*/\2 \1/p' "$work/$1/metrics.jsonl"; }
said() { grep -q -- "$2" "$work/$1.out"; }  # RUN TEXT
same_losses() { [ "$(losses "$1" | wc -l)" -eq 150 ] && [ "$(losses "$1")" = "$(losses "$2")" ]; }
saved_all() { [ "$(newest "$1")" = "$(last_step "$work/$1")" ]; }
warn() { scancel --batch --signal=USR1 "$1"; }  # as slurm does before the time limit

kill_rank() {  # RUN: one of its ranks dies
  await 60 "$1 trains" trained "$1" 20
  kill -KILL "$(pgrep -f "^$programs/neox_train .*--checkpoint.save $work/$1 " | head -n 1)"
  rm "$work/$1/metrics.jsonl"
}

check "train_20b.sh fits 12 nodes of 8 GPUs" sbatch --test-only "$source_dir/slurm/train_20b.sh"

# ---- what needs time in the background -----------------------------------------------------------
crash=$(MAX_FAILURES=2 submit crash "$source_dir/slurm/train.sh" "${endless[@]}")
# slurm's own warning, or the program's clock, whichever comes first, within a limit of one minute.
limited=$(submit limited --time=1 --nodes=1 "$source_dir/slurm/train.sh" "${endless[@]}")
# Nothing but the program's clock.
clocked=$(MAX_RESTARTS=0 submit clocked --time=1 --nodes=1 --signal=B:USR1@0 "$source_dir/slurm/train.sh" "${endless[@]}")

kill_rank crash
lost=$(submit lost "$source_dir/slurm/train.sh" --checkpoint.checkpoint_factor 20)
until [ "$(newest lost)" ] || ended "$lost"; do sleep 0.02; done
"$cluster" kill-node "$work/cluster" "$(scontrol show job "$lost" -o | sed -n 's/.* BatchHost=\([^ ]*\).*/\1/p')"

# ---- a run that is not disturbed, and the same interrupted ---------------------------------------
straight=$(PREFLIGHT=yes submit straight "$source_dir/slurm/train.sh")
straight_20b=$(submit straight_20b --ntasks-per-node=2 "$source_dir/slurm/train_20b.sh" "${layout_20b[@]}")
warned=$(submit warned "$source_dir/slurm/train.sh")
await 60 "the warned run trains" trained warned 20
warn "$warned"
await 30 "the warned run is requeued" restarted "$warned" 1
warned_20b=$(submit warned_20b --ntasks-per-node=2 "$source_dir/slurm/train_20b.sh" "${layout_20b[@]}")
await 60 "the warned run of train_20b.sh trains" trained warned_20b 20
warn "$warned_20b"
for job in $straight $straight_20b $warned $warned_20b; do await 60 "job $job ends" ended "$job"; done
for job in $straight $straight_20b $warned $warned_20b; do
  check "job $job completed" is "$job" COMPLETED
done
check "preflight: of both nodes, before the run" said straight 'preflight of 2 ranks on 2 nodes'
check "USR1: saved, requeued, resumed, finished" said warned 'resuming from'
check "USR1: the losses of all steps are those of the undisturbed run" same_losses straight warned
check "train_20b.sh, USR1: resumed" said warned_20b 'resuming from'
check "train_20b.sh, USR1: the losses are those of the undisturbed run" same_losses straight_20b warned_20b

# ---- the time limit ------------------------------------------------------------------------------
await 60 "the run is requeued before its limit" restarted "$limited" 1
check "time limit: signal, saved, requeued" said limited 'stopped with its state saved; requeueing'
scancel "$limited"
await 60 "the crashed run starts again" said crash 'start 1 on'
kill_rank crash

# ---- leaving -------------------------------------------------------------------------------------
cancelled=$(submit cancelled "$source_dir/slurm/train.sh" "${endless[@]}")
left=$(submit left "$source_dir/slurm/train.sh" "${endless[@]}")
limit=$(MAX_RESTARTS=0 submit limit "$source_dir/slurm/train.sh" "${endless[@]}")
wrong=$(submit wrong "$source_dir/slurm/train.sh" --optimizer.lr -1)
for run in cancelled left limit; do await 60 "run $run trains" trained $run 20; done
scancel "$cancelled"
scancel --batch --signal=USR2 "$left"
warn "$limit"
for job in $cancelled $left $limit $wrong; do await 60 "job $job ends" ended "$job"; done
check "scancel ends the job" is "$cancelled" CANCELLED
await 40 "scancel saves" saved_all cancelled
passed "scancel saves the last step"
check "USR2: saved, not requeued" said left 'asked to save and leave; not requeued, exit code 85'
check "USR2 saves the last step" saved_all left
check "restart limit: gives up with 85" test "$(state "$limit") $(exit_code "$limit")" = "FAILED 85"
check "restart limit: the last step is saved" saved_all limit
check "an error that stays is not retried" test "$(state "$wrong") $(exit_code "$wrong") $(restarts "$wrong")" = "FAILED 1 0"

# ---- a preflight that finds a bad node: its copy of the data is another --------------------------
sed 's/the/teh/g' corpus.jsonl >other.jsonl
"$programs/neox_preprocess" --input other.jsonl --output-prefix other --tokenizer-type CharLevelTokenizer \
  --append-eod >>preprocess.log 2>&1
"$cluster" on-node "$work/cluster" node12 mount --bind "$work/other_text_document.bin" "$work/corpus_text_document.bin"
bad=$(PREFLIGHT=yes submit bad --nodelist=node11,node12 "$source_dir/slurm/train.sh")
await 60 "the job with a bad node ends" ended "$bad"
"$cluster" on-node "$work/cluster" node12 umount "$work/corpus_text_document.bin"
check "preflight: names the bad node" said bad 'error: rank 1 (node12): the dataset is '
check "preflight: says how to do without" said bad 'sbatch --exclude=node12 '
check "preflight: the job gives up at once" test "$(state "$bad") $(exit_code "$bad") $(restarts "$bad")" = "FAILED 1 0"
check "preflight: nothing was trained" test ! -e "$work/bad/metrics.jsonl"

# ---- seeds, a chain, failures --------------------------------------------------------------------
seeds=$(submit seeds --array=1-2 "$source_dir/slurm/train.sh" --train.train_iters 20)
mapfile -t chain < <(RUN_DIR=$work/chain "$source_dir/slurm/chain.sh" 2 --nodes=2 --ntasks-per-node=1 \
  --cpus-per-task=1 --output="$work/chain.out" "$source_dir/slurm/train.sh")
await 60 "the chain trains" trained chain 20
warn "${chain[0]}"
for job in "${chain[@]}" "${seeds}_1" "${seeds}_2"; do await 60 "job $job ends" ended "$job"; done
check "chain: the first job does not requeue" test "$(state "${chain[0]}") $(restarts "${chain[0]}")" = "FAILED 0"
check "chain: the second finishes" is "${chain[1]}" COMPLETED
check "chain: the losses are those of the undisturbed run" same_losses straight chain
check "seeds: two runs" test -e "$work/seeds/seed1/metrics.jsonl" -a -e "$work/seeds/seed2/metrics.jsonl"
check "seeds: with losses of their own" test "$(losses seeds/seed1)" != "$(losses seeds/seed2)"

# ---- what took its time --------------------------------------------------------------------------
await 60 "the run without a signal ends" ended "$clocked"
check "time limit without a signal: ends in time, with 85" test "$(state "$clocked") $(exit_code "$clocked")" = "FAILED 85"
check "time limit without a signal: neox_train left by itself" said clocked 'the job ends soon: saving'
check "time limit without a signal: no signal came" test "$(grep -c 'signal (' clocked.out)" -eq 0
check "time limit without a signal: the last step is saved" saved_all clocked
await 60 "the run that lost a node is requeued" restarted "$lost" 1
await 60 "the run that lost a node ends" ended "$lost"
check "node lost: requeued on others, finished" is "$lost" COMPLETED
check "node lost: resumed" said lost 'resuming from'
check "node lost: the losses are those of the undisturbed run" same_losses straight lost
await 60 "the run that fails gives up" ended "$crash"
check "two failures without a checkpoint: gives up" said crash '2 failures in a row without a new checkpoint'
check "two failures: job failed after one restart" test "$(state "$crash") $(restarts "$crash")" = "FAILED 1"

[ $failures -eq 0 ] || { echo "$failures checks failed"; exit 1; }
echo "all passed in $SECONDS s"
