#!/usr/bin/env python3
"""Tokenizing and BPE training, beside Hugging Face's `tokenizers` in the same run.

  python3 -m venv /tmp/venv && /tmp/venv/bin/pip install tokenizers
  /tmp/venv/bin/python benchmarks/tokenizer.py --build build/release --tokenizer T.json FILE...
  /tmp/venv/bin/python benchmarks/tokenizer.py --build build/release --train 4257 FILE...

Tokenizing is on one thread; ids are compared. Hugging Face's best of encode(whole text),
encode_batch_fast(lines) counts against ours of the same cut; `first` is the first pass with an
empty word cache, `best` the best of several.
"""
import argparse
import json
import os
import subprocess
import tempfile
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"
import tokenizers  # noqa: E402


def fnv(ids):
    h = 0xCBF29CE484222325
    for i in ids:
        h = ((h ^ i) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return h


def hugging_face(path, tokenizer_file, lines):
    text = open(path, encoding="utf-8", newline="").read()
    parts = [line for line in text.split("\n")] if lines else None
    if lines:  # keep line ends, as the other program does
        parts = [p + "\n" for p in parts[:-1]] + ([parts[-1]] if parts[-1] else [])
    tokenizer = tokenizers.Tokenizer.from_file(tokenizer_file)
    times, ids = [], None
    while len(times) < 2 or (sum(times) < 0.5 and len(times) < 10):
        start = time.perf_counter()
        if lines:
            encodings = tokenizer.encode_batch_fast(parts, add_special_tokens=False)
        else:
            encodings = [tokenizer.encode(text, add_special_tokens=False)]
        times.append(time.perf_counter() - start)
        if ids is None:
            ids = [i for e in encodings for i in e.ids]
    return times[0], min(times), ids


def bench_encode(args):
    print(f"tokenizers {tokenizers.__version__}, {os.path.basename(args.tokenizer)}; MB/s on one thread")
    print(f"{'file':24} {'cut':6} {'HF first':>9} {'HF best':>9} {'neox first':>10} {'neox best':>10} {'first x':>8} {'best x':>7}")
    for path in args.files:
        for cut in ("whole", "lines"):
            hf_first, hf_best, ids = hugging_face(path, args.tokenizer, cut == "lines")
            out = subprocess.run([f"{args.build}/bin/bench_tokenizer", cut, args.tokenizer, path],
                                 check=True, capture_output=True, text=True).stdout
            ours = json.loads(out)
            if ours["hash"] != fnv(ids):
                raise SystemExit(f"{path}: the ids differ")
            mb = ours["bytes"] / 1e6
            print(f"{os.path.basename(path):24} {cut:6} {mb / hf_first:9.2f} {mb / hf_best:9.2f} "
                  f"{mb / ours['first_s']:10.1f} {mb / ours['best_s']:10.1f} "
                  f"{hf_first / ours['first_s']:8.1f} {hf_best / ours['best_s']:7.1f}", flush=True)


def bench_train(args):
    def ours(out):
        start = time.perf_counter()
        subprocess.run([f"{args.build}/bin/neox_preprocess", "--input", *args.files, "--workers",
                        str(args.workers), "--train-tokenizer", out, "--vocab-size",
                        str(args.train)], check=True, capture_output=True)
        return time.perf_counter() - start

    def theirs():
        tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=args.train, special_tokens=["<|endoftext|>"], show_progress=False,
            initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet())
        start = time.perf_counter()
        tokenizer.train(args.files, trainer)
        return time.perf_counter() - start, tokenizer

    with tempfile.TemporaryDirectory() as folder:
        out = folder + "/tokenizer.json"
        mine = min(ours(out) for _ in range(3))
        runs = [theirs() for _ in range(2)]
        hf = min(seconds for seconds, _ in runs)
        same = json.load(open(out))["model"]["merges"]
        want = [m if isinstance(m, str) else " ".join(m)
                for m in json.loads(runs[0][1].to_str())["model"]["merges"]]
        size = sum(os.path.getsize(f) for f in args.files) / 1e6
        print(f"BPE of {args.train} tokens from {size:.1f} MB, {args.workers} thread(s): "
              f"HF {hf:.2f} s, neox {mine:.3f} s (process start to file), {hf / mine:.1f} x; "
              f"{len(want)} merges, {'all equal' if same == want else 'DIFFERENT'}", flush=True)


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
parser.add_argument("files", nargs="+")
parser.add_argument("--build", default="build/release")
parser.add_argument("--tokenizer", help="tokenizer.json")
parser.add_argument("--train", type=int, help="vocabulary size to learn")
parser.add_argument("--workers", type=int, default=1)
args = parser.parse_args()
os.environ["RAYON_NUM_THREADS"] = str(args.workers)
if args.workers > 1:
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
bench_train(args) if args.train else bench_encode(args)
