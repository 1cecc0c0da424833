#!/usr/bin/env bash
# Every test that needs a GPU, in one go of at most 9 minutes.
#
#   tests/gpu/run.sh [--build DIR] [--simulated] [--no-build]
#
# Programs come from the bundle in .gpu/ when there is .gpu/env.sh (a script that unpacks programs
# and their libraries and puts them on PATH), else from the build folder (build/release), where they
# are built first. Logs go to $OUT (out/gpu). A table of the parts comes last; the exit code is 0
# when nothing failed and something ran on a GPU. --simulated runs a few tests of each part on a
# simulated GPU instead, to try this script without one (exit code 0 when nothing failed).
set -uo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
build=$root/build/release simulated=0 compile=1
while [ $# -gt 0 ]; do
  case $1 in
    --build) build=$2; shift ;;
    --simulated) simulated=1 ;;
    --no-build) compile=0 ;;
    *) sed -n '2,/^set -/{/^#/s/^# \{0,1\}//p}' "$0"; exit 2 ;;
  esac
  shift
done
out=${OUT:-$root/out/gpu}
mkdir -p "$out"
end=$((SECONDS + ${GPU_TEST_LIMIT:-540}))
names=() results=() times=() notes=()

record() { names+=("$1"); results+=("$2"); times+=("$3"); notes+=("$4"); }

# part NAME LIMIT COMMAND...: the log decides what ran. A GoogleTest program that skips everything
# exits with 0, and a part without one passed test has not run.
part() {
  local name=$1 limit=$2 log=$out/$1.log begin=$SECONDS left code result note='' passed skipped
  shift 2
  left=$((end - SECONDS))
  [ "$left" -lt "$limit" ] && limit=$left
  if [ "$limit" -le 0 ]; then record "$name" failed 0 'no time was left'; return; fi
  echo "== $name: $* (at most ${limit}s, log $log)"
  timeout -k 5 "$limit" "$@" > "$log" 2>&1
  code=$?
  passed=$(grep -c '^\[       OK \]' "$log")
  skipped=$(sed -n 's/^\[  SKIPPED \] \([0-9]*\) test.*/\1/p' "$log" | tail -1)
  if [ "$code" -eq 124 ] || [ "$code" -eq 137 ]; then
    result=failed note="stopped after ${limit}s, in $(sed -n 's/^\[ RUN      \] //p' "$log" | tail -1)"
  elif [ "$code" -ne 0 ]; then
    result=failed note=$(failure "$log" "$code")
  elif [ "$passed" -eq 0 ]; then
    result=skipped note=$(grep -A2 'Skipped$' "$log" | sed -n '2p')
  else
    result=passed note="$passed tests${skipped:+, $skipped skipped}"
  fi
  record "$name" "$result" $((SECONDS - begin)) "$note"
}

# The tests that failed, else the last line.
failure() {
  local list
  list=$(sed -n 's/^\[  FAILED  \] \([^ ,]*\/*[^ ,]*\).*(.*/\1/p' "$1" | sort -u | head -3 | tr '\n' ' ')
  if [ -n "$list" ]; then echo "$list"; else echo "exit code $2: $(tail -1 "$1")"; fi
}

table() {
  local i
  printf '\n%-22s %-8s %5s  %s\n' part result s ''
  for i in "${!names[@]}"; do
    printf '%-22s %-8s %5s  %s\n' "${names[i]}" "${results[i]}" "${times[i]}" "${notes[i]:0:150}"
  done
}

# ---- programs --------------------------------------------------------------------------------
programs=(test_gpu test_comm test_comm_mpi2 test_comm_mpi4 test_app neox_train neox_generate neox_preprocess)
if [ -f "$root/.gpu/env.sh" ]; then
  # shellcheck disable=SC1091
  . "$root/.gpu/env.sh"
  echo "programs: the bundle in $root/.gpu"
elif [ -d "$build" ]; then
  if [ "$compile" = 1 ]; then
    # A build may take longer than the tests: it has no limit, and its time does not count.
    if ! cmake --build "$build" --target "${programs[@]}" > "$out/build.log" 2>&1; then
      tail -20 "$out/build.log"
      echo "the build failed (log: $out/build.log)"
      exit 1
    fi
    end=$((SECONDS + ${GPU_TEST_LIMIT:-540}))
  fi
  PATH=$build/bin:$PATH
  echo "programs: $build/bin"
else
  echo "neither $root/.gpu/env.sh nor $build is there: bring a bundle, or configure a build first" >&2
  exit 2
fi
export NEOX_TEST_SOURCES=$root
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
export OMPI_MCA_mpi_yield_when_idle=1 GTEST_COLOR=no
# Ranks that share a GPU take turns on it: fewer channels, fewer turns.
export NCCL_SOCKET_IFNAME=${NCCL_SOCKET_IFNAME:-lo} NCCL_IB_DISABLE=1 NCCL_MAX_NCHANNELS=2
OMP_NUM_THREADS=$(nproc)
export OMP_NUM_THREADS
have() { command -v "$1" > /dev/null; }
run() {  # run PART LIMIT RANKS PROGRAM FILTER
  local name=$1 limit=$2 n=$3 program=$4 filter=$5
  local command=("$program" "--gtest_filter=$filter")
  if ! have "$program"; then record "$name" failed 0 "no $program among the programs"; return; fi
  [ "$n" -eq 1 ] || command=(mpirun -np "$n" --oversubscribe "${command[@]}")
  part "$name" "$limit" "${command[@]}"
}

{ date -u; nvidia-smi 2>&1; } > "$out/device.txt"
have nvidia-smi && nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader

# ---- parts -----------------------------------------------------------------------------------
# A process for each family, so that an error that spoils a process costs one family's results.
# What comes first is what the rest stands on.
if [ "$simulated" = 1 ]; then
  run elementwise 120 1 test_gpu 'Elementwise/SimulatedValue.*'
  run linear 60 1 test_gpu 'Engines/LinearOn.MatchesTheCpuEngine/Simulated'
  run comm 60 1 test_comm '*SixteenBit*'
  run comm_2_ranks 60 2 test_comm_mpi2 '*SixteenBit*'
  run comm_4_ranks 60 4 test_comm_mpi4 '*SixteenBit*'
  run whole_runs 120 1 test_app '*WholeRun.TrainsAsTheCpuDoesInBfloat16/simulated'
else
  run runtime 60 1 test_gpu 'CudaRuntimeOn.*'
  run elementwise 60 1 test_gpu 'Elementwise/Cuda*:CudaAgainstCpu.*'
  run linear 90 1 test_gpu 'CublasLtTest.*:Engines/LinearOn.*/CublasLt*'
  run blocks 90 1 test_gpu '*CudaBlock*'
  run norm_loss_optimizer 60 1 test_gpu '*CudaNorm*:*CudaLoss*:*CudaOptimizer*'
  run embedding 60 1 test_gpu '*CudaEmbedding*'
  run attention 120 1 test_gpu '*CudaAttention*'
  run attention_cudnn 90 1 test_gpu 'CudnnAttentionOn.*'
  OMP_NUM_THREADS=1
  run whole_runs 240 1 test_app '*WholeRun*/cuda-*RecordedWork*'
  run graphs 120 1 test_app '*WholeRun.RecordedWork*/cuda'
  run comm 60 1 test_comm '*gpu*'
  run comm_2_ranks 60 2 test_comm_mpi2 '*gpu*-*nccl_gpu*'
  run comm_4_ranks 60 4 test_comm_mpi4 '*gpu*-*nccl_gpu*'
  run nccl_2_ranks 60 2 test_comm_mpi2 '*nccl_gpu*'
  run nccl_4_ranks 60 4 test_comm_mpi4 '*nccl_gpu*'
  if have compute-sanitizer && have test_gpu && [ "${results[0]}" = passed ]; then
    for tool in memcheck racecheck; do
      part "$tool" 90 compute-sanitizer --tool "$tool" --error-exitcode 9 "$(command -v test_gpu)" \
        '--gtest_filter=Blocks/CudaBlockValue.*bf16*:Elementwise/CudaValue.*bf16*'
    done
  else
    record sanitizer skipped 0 'needs compute-sanitizer on PATH, and a GPU'
  fi
fi

# ---- result ----------------------------------------------------------------------------------
table | tee "$out/summary.txt"
for result in "${results[@]}"; do
  [ "$result" != failed ] || exit 1
done
if [ "$simulated" = 0 ] && [ "${results[0]}" != passed ]; then
  echo "nothing ran on a GPU: ${notes[0]:-no test passed}" | tee -a "$out/summary.txt"
  exit 1
fi
