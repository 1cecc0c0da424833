#!/usr/bin/env bash
# What one GPU does, in at most 9 minutes: operators against measured ceilings, training steps, and
# PyTorch's where it is installed with CUDA.
#
#   benchmarks/gpu/run.sh [--build DIR] [--peak TFLOPS] [--simulated]
#
# Programs come from the bundle in .gpu/ when there is .gpu/env.sh (a script that unpacks programs
# and their libraries and puts them on PATH), else from the build folder (build/release); build
# bench_gpu_operators and bench_gpu_train_step first. Full figures (JSON, markdown) and logs go to
# $OUT (out/gpu-bench); a short table comes last. --peak: dense bf16 of the chip (989: H100, H200;
# A100: 312). --simulated runs tiny sizes without a GPU. PYTHON names another python3.
set -uo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
build=$root/build/release peak=989 device=cuda python=${PYTHON:-python3}
while [ $# -gt 0 ]; do
  case $1 in
    --build) build=$2; shift ;;
    --peak) peak=$2; shift ;;
    --simulated) device=simulated ;;
    *) sed -n '2,/^set -/{/^#/s/^# \{0,1\}//p}' "$0"; exit 2 ;;
  esac
  shift
done
out=${OUT:-$root/out/gpu-bench}
mkdir -p "$out"
rm -f "$out"/{operators,train_step,any_order,torch}.{txt,err,json}  # of an earlier run
end=$((SECONDS + ${GPU_BENCH_LIMIT:-530}))
failed=0

# PyTorch is asked before the bundle's libraries are on the paths.
torch=0
"$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2> /dev/null && torch=1
torch_path=${LD_LIBRARY_PATH:-}

if [ -f "$root/.gpu/env.sh" ]; then
  # shellcheck disable=SC1091
  . "$root/.gpu/env.sh"
else
  PATH=$build/bin:$PATH
fi
for program in bench_gpu_operators bench_gpu_train_step; do
  if ! command -v "$program" > /dev/null; then
    echo "no $program in $root/.gpu or $build/bin: bring a bundle with it, or build it" >&2
    exit 2
  fi
done
OMP_NUM_THREADS=$(nproc)  # random weights are made on the host
export OMP_NUM_THREADS

# step NAME LIMIT COMMAND...: the output goes to NAME.txt, errors also to NAME.err.
step() {
  local name=$1 limit=$2 left code begin=$SECONDS
  shift 2
  left=$((end - SECONDS))
  [ "$left" -lt "$limit" ] && limit=$left
  if [ "$limit" -le 0 ]; then
    echo "$name: no time was left" | tee "$out/$name.err"
    failed=1
    return
  fi
  echo "== $name (at most ${limit}s)"
  timeout -k 5 "$limit" "$@" > "$out/$name.txt" 2> "$out/$name.err"
  code=$?
  [ "$code" -eq 0 ] || failed=1
  [ "$code" -eq 124 ] && echo "stopped after ${limit}s" >> "$out/$name.err"
  [ "$code" -eq 0 ] || echo "$name failed (exit code $code): $(tail -1 "$out/$name.err")"
  echo "   $((SECONDS - begin)) s"
}

{ date -u; nvidia-smi 2>&1; } > "$out/device.txt"
common=(bench_gpu_train_step --device "$device" --peak "$peak")
if [ "$device" = simulated ]; then
  shapes=(--shape tiny --shape tiny-gpt2 --steps 1 --warm-up 1)
  faster=(--shape tiny --steps 1 --warm-up 1)
else
  shapes=(--shape gpt2-xl --shape 1.3b --shape 6.9b)
  faster=(--shape 1.3b)
fi
step train_step 180 "${common[@]}" "${shapes[@]}" --json "$out/train_step.json"
step operators 150 bench_gpu_operators --device "$device" --json "$out/operators.json" \
  --full "$out/operators.md"
step any_order 60 "${common[@]}" "${faster[@]}" --deterministic false --json "$out/any_order.json"
if [ "$torch" = 1 ] && [ "$device" = cuda ] && [ -s "$out/train_step.json" ]; then
  step torch 300 env LD_LIBRARY_PATH="$torch_path" "$python" \
    "$root/benchmarks/gpu/train_step_torch.py" --neox "$out/train_step.json" --json "$out/torch.json"
else
  echo "no comparison with PyTorch: $python has no torch with a GPU" > "$out/torch.txt"
fi

{
  for name in operators train_step any_order torch; do
    [ -s "$out/$name.txt" ] && { echo; cat "$out/$name.txt"; }
    [ -s "$out/$name.err" ] && tail -3 "$out/$name.err"
  done
  echo
  echo "full figures: $out"
} | tee "$out/summary.txt"
exit "$failed"
