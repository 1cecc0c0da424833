#!/usr/bin/env bash
# From nothing to text written by a model you trained: installs packages, builds, prepares a real corpus
# (Debian's perl-doc), trains a small GPT-NeoX-style model on two ranks, resumes it, and lets it write.
# Run it again: everything that is done already is skipped. About ten minutes on two cores.
set -euo pipefail
cd "$(dirname "$0")/.."

ranks=${RANKS:-2}
bin=build/release/bin
data=data/quickstart
run=runs/quickstart
prompt=${1:-The following example shows how to}
step() { printf '\n\033[1m== %s\033[0m\n' "$*"; }

if [ "$(id -u)" -eq 0 ]; then  # mpirun refuses root unless told twice
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi
# One thread per rank: two ranks on two cores.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

step "1/6 packages"
./setup.sh

step "2/6 build"
cmake --preset release > build-quickstart.log 2>&1 || { cat build-quickstart.log; exit 1; }
rm -f build-quickstart.log
cmake --build --preset programs

step "3/6 corpus"
mkdir -p "$data"
[ -s "$data/perldoc.jsonl" ] || benchmarks/corpus_perldoc.sh "$data/perldoc.jsonl"

step "4/6 tokenizer and token files"
[ -s "$data/tokenizer.json" ] ||
  $bin/neox_preprocess --train-tokenizer "$data/tokenizer.json" --vocab-size 4096 \
    --input "$data/perldoc.jsonl"
[ -s "$data/perldoc_text_document.idx" ] ||
  $bin/neox_preprocess --input "$data/perldoc.jsonl" --output-prefix "$data/perldoc" \
    --vocab-file "$data/tokenizer.json" --append-eod --workers 2

step "5/6 training on $ranks ranks (first 100 steps; then resumed from the checkpoint to the end)"
mpirun -np "$ranks" --oversubscribe $bin/neox_train --config configs/quickstart.ini --train.exit_interval 100
mpirun -np "$ranks" --oversubscribe $bin/neox_train --config configs/quickstart.ini
h5ls "$(ls $run/*.h5 | tail -n 1)/model"

step "6/6 the model writes"
OMP_NUM_THREADS=2 $bin/neox_generate --checkpoint.load "$run" --generate.prompt "$prompt" \
  --generate.maximum_tokens 150 --generate.temperature 0.7 --generate.top_k 40
