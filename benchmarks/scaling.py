#!/usr/bin/env python3
"""How much faster two ranks on two cores train than one rank on one core (GPT-2-124M).

    python benchmarks/scaling.py [--bin build/release/bin/bench_scaling] [--rounds 3] [--seq 256]

Each round runs every layout once, one after the other, so that a drifting machine hits all alike; printed are
medians over the rounds. One thread per rank; ranks are bound to cores. The data-parallel run has twice the batch (weak scaling), the
tensor- and pipeline-parallel runs have the same batch as one rank.
"""
import argparse
import json
import os
import statistics
import subprocess

# name, ranks, tensor, pipe, ZeRO stage, micro-batch divisor, accumulation, aim
LAYOUTS = [
    ("one rank", 1, 1, 1, 0, 1, 1, None),
    ("data parallel", 2, 1, 1, 0, 1, 1, 1.8),
    ("data parallel, ZeRO 1", 2, 1, 1, 1, 1, 1, None),
    ("tensor parallel", 2, 2, 1, 0, 1, 1, 1.6),
    ("pipeline, 4 micro-batches", 2, 1, 2, 0, 4, 4, None),
]


def run(args, ranks, tensor, pipe, zero, divisor, accumulation, precision):
    env = dict(os.environ, OMP_NUM_THREADS="1", OMPI_ALLOW_RUN_AS_ROOT="1",
               OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
    command = ["mpirun", "-np", str(ranks), "--bind-to", "core", args.bin, str(tensor), str(pipe),
               str(zero), str(args.batch // divisor), str(accumulation), str(args.seq), precision,
               str(args.steps)]
    out = subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout
    return json.loads(out.strip().splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bin", default="build/release/bin/bench_scaling")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--seq", type=int, default=256)
    parser.add_argument("--precision", nargs="+", default=["fp32", "bfloat16"])
    args = parser.parse_args()
    for precision in args.precision:
        rates = {name: [] for name, *_ in LAYOUTS}
        for _ in range(args.rounds):
            for name, ranks, tensor, pipe, zero, divisor, accumulation, _ in LAYOUTS:
                result = run(args, ranks, tensor, pipe, zero, divisor, accumulation, precision)
                rates[name].append(result["tokens_per_second"])
        base = statistics.median(rates["one rank"])
        print(f"\nGPT-2-124M, {precision}, {args.batch} x {args.seq} tokens, medians of {args.rounds}")
        print(f"{'layout':28} {'tokens/s':>9} {'ratio':>6}  aim")
        for name, *_, aim in LAYOUTS:
            rate = statistics.median(rates[name])
            print(f"{name:28} {rate:9.1f} {rate / base:6.2f}  {aim or ''}")


if __name__ == "__main__":
    main()
