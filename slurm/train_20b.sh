#!/usr/bin/env bash
# Trains GPT-NeoX-20B under SLURM on 12 nodes of 8 GPUs: TP 2, PP 4, DP 12 (docs/slurm.md):
#
#   sbatch slurm/train_20b.sh [neox_train option ...]
#
# ---- this site and this run ----------------------------------------------------------------------
#SBATCH --job-name=neox-20b
#SBATCH --nodes=12
#SBATCH --ntasks-per-node=8          # one rank for each GPU
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@900          # seconds before the time limit: a step, a save and a minute
#SBATCH --requeue                    # after the loss of a node
#SBATCH --open-mode=append           # restarts go on in the same log
#SBATCH --output=neox-20b-%j.out
##SBATCH --partition=... --account=... --qos=...
##SBATCH --array=1-4%2               # one run for each of these seeds

NEOX=${NEOX:-$SLURM_SUBMIT_DIR}            # the repository, seen by all nodes
NEOX_TRAIN=${NEOX_TRAIN:-build/release/bin/neox_train}
CONFIGS=${CONFIGS:-configs/neox-20b.ini configs/data/pile.ini}  # later ones win
RUN_DIR=${RUN_DIR:-runs/neox-20b}  # checkpoints and logs; seen by all nodes
MAX_RESTARTS=${MAX_RESTARTS:-100}          # of this job, whatever the reason
MAX_FAILURES=${MAX_FAILURES:-3}            # in a row without a new checkpoint
PREFLIGHT=${PREFLIGHT:-yes}                # check the nodes first; strict: end when one is slow; no
# module load openmpi hdf5
# export OMPI_MCA_btl_tcp_if_include=ib0     # the network between nodes
# --------------------------------------------------------------------------------------------------

# shellcheck source=slurm/job.sh disable=SC2034 # it reads the variables above
source "$NEOX/slurm/job.sh"
