#!/usr/bin/env bash
# Trains any configuration under SLURM, across time limits and failures (docs/slurm.md):
#
#   sbatch slurm/train.sh [neox_train option ...]
#
# Copy it for a run of your own and edit the part between the lines.
# ---- this site and this run ----------------------------------------------------------------------
#SBATCH --job-name=neox
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8          # one rank for each GPU
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@300          # seconds before the time limit: a step, a save and a minute
#SBATCH --requeue                    # after the loss of a node
#SBATCH --open-mode=append           # restarts go on in the same log
#SBATCH --output=neox-%j.out
##SBATCH --partition=... --account=... --qos=...
##SBATCH --array=1-4%2               # one run for each of these seeds

NEOX=${NEOX:-$SLURM_SUBMIT_DIR}            # the repository, seen by all nodes
NEOX_TRAIN=${NEOX_TRAIN:-build/release/bin/neox_train}
CONFIGS=${CONFIGS:-configs/pythia/160m.ini}  # later ones win
RUN_DIR=${RUN_DIR:-runs/neox}  # checkpoints and logs; seen by all nodes
MAX_RESTARTS=${MAX_RESTARTS:-100}          # of this job, whatever the reason
MAX_FAILURES=${MAX_FAILURES:-3}            # in a row without a new checkpoint
PREFLIGHT=${PREFLIGHT:-yes}                # check the nodes first; strict: end when one is slow; no
# module load openmpi hdf5
# export OMPI_MCA_btl_tcp_if_include=ib0     # the network between nodes
# --------------------------------------------------------------------------------------------------

# shellcheck source=slurm/job.sh disable=SC2034 # it reads the variables above
source "$NEOX/slurm/job.sh"
