#!/usr/bin/env bash
# The long forms of the durability tests (docs/durability.md), with a build in BUILD:
#   run.sh kill-loop [KILLS]        kill -9 of a random rank, restart in a random layout  (500)
#   run.sh kill-same [KILLS]        the same in one layout: the last files are the same bytes  (100)
#   run.sh power-loss [LOSSES]      as root: the power fails while checkpoints are written  (100)
#   run.sh elastic                  12 saving x 12 loading layouts x 4 models
#   run.sh flatness [STEPS]         memory and open files of a long run  (10000)
#   run.sh faults                   damaged files, every failing system call; as root: full disks
#   run.sh all
# NEOX_SEED=N repeats the random choices of a run that printed N.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
BUILD=${BUILD:-$here/../../build/release}
program=$BUILD/bin/test_durability
[[ -x $program ]] || { echo "$program is not there: cmake --build $BUILD --target test_durability" >&2; exit 1; }

run() {  # TEST [NAME=VALUE...]
  local test=$1
  shift
  env "$@" "$program" --gtest_filter="$test"
}

mode=${1:-}
count=${2:-}
case $mode in
  kill-loop) run KillLoop.InRandomLayouts NEOX_KILLS="${count:-500}" ;;
  kill-same) run 'KillLoop.InOneLayout*' NEOX_KILLS="${count:-100}" ;;
  power-loss) run 'PowerLoss.*' NEOX_POWER_LOSSES="${count:-100}" NEOX_CONTROLS=10 ;;
  elastic) run 'Elastic.*' NEOX_PAIRS=all ;;
  flatness) run 'Flatness.*' NEOX_FLAT_STEPS="${count:-10000}" ;;
  faults)
    export NEOX_FAULT_TESTS=full OMP_NUM_THREADS=1
    cases='Corruption.*:DiskFaults.*:FullDisk.*'
    "$BUILD/bin/test_io" --gtest_filter="$cases"
    for ranks in 2 4; do
      mpirun --oversubscribe -np "$ranks" "$BUILD/bin/test_io_mpi$ranks" --gtest_filter="$cases"
    done
    ;;
  all)
    for each in kill-loop kill-same power-loss elastic flatness faults; do "$0" "$each"; done
    ;;
  *)
    sed -n '2,/^set/{/^set/!s/^# \{0,1\}//p}' "$0"
    exit 1
    ;;
esac
