#!/usr/bin/env bash
# Submits COUNT jobs that follow each other and continue the same run, each when the one before has
# ended, well or not; for sites without requeueing, or where every job queues anew.
#
#   slurm/chain.sh COUNT [sbatch option ...] SCRIPT [neox_train option ...]
#   slurm/chain.sh 3 --time=4:00:00 slurm/train.sh
#
# Prints the job numbers. Jobs that start after the run has finished end at once.
set -euo pipefail

count=${1:-}
if [[ ! $count =~ ^[1-9][0-9]*$ ]] || [ $# -lt 2 ]; then
  echo "usage: slurm/chain.sh COUNT [sbatch option ...] SCRIPT [neox_train option ...]" >&2
  exit 2
fi
shift
export REQUEUE=no
after=()
for ((i = 0; i < count; i++)); do
  job=$(sbatch --parsable "${after[@]}" "$@")
  job=${job%%;*}  # JOB;CLUSTER on federations
  echo "$job"
  after=(--dependency="afterany:$job")
done
