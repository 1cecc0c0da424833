#!/usr/bin/env python3
"""One GPT-2-124M training step (forward, backward, AdamW): neox against PyTorch, in one run.

    python3 -m venv /tmp/venv && /tmp/venv/bin/pip install torch
    /tmp/venv/bin/python benchmarks/train_step.py [--threads 2] [--steps 5] [--rounds 3] [--compile]

PyTorch gets what makes it fastest on a CPU: scaled_dot_product_attention (its flash kernel), fused
AdamW, a malloc that never gives memory back, set_to_none, and with --compile also torch.compile; the
best of its variants counts. Both programs run alternately, each in a process of its own; the median
over the rounds of each process' median step is compared. Ceilings are measured in neox' processes:
  plain   the GEMM-only ceiling: the products of all linear layers, nothing else, by oneDNN on plain matrices;
  packed  the same on matrices that already lie in oneDNN's preferred layout;
  +att.   plain, and attention's causal products at the same FLOP/s.
The shares are medians over the rounds of step against ceiling in one process.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
SHAPES = [(4, 256), (1, 1024)]


def torch_worker(batch, seq, precision, steps, compiled):
    import resource
    import time

    import torch
    import torch.nn.functional as F
    from torch import nn

    torch.manual_seed(1)
    h, layers, heads, vocab = 768, 12, 12, 50304

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.ln1, self.ln2 = nn.LayerNorm(h), nn.LayerNorm(h)
            self.qkv, self.proj = nn.Linear(h, 3 * h), nn.Linear(h, h)
            self.fc, self.fcproj = nn.Linear(h, 4 * h), nn.Linear(4 * h, h)

        def forward(self, x):
            b, s, _ = x.shape
            q, k, v = self.qkv(self.ln1(x)).split(h, dim=2)
            q, k, v = (t.view(b, s, heads, h // heads).transpose(1, 2) for t in (q, k, v))
            a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.proj(a.transpose(1, 2).reshape(b, s, h))
            return x + self.fcproj(F.gelu(self.fc(self.ln2(x)), approximate="tanh"))

    class Gpt2(nn.Module):
        def __init__(self):
            super().__init__()
            self.wte, self.wpe = nn.Embedding(vocab, h), nn.Embedding(1024, h)
            self.blocks = nn.ModuleList(Block() for _ in range(layers))
            self.ln_f = nn.LayerNorm(h)
            for p in self.parameters():
                if p.dim() > 1:
                    nn.init.normal_(p, std=0.02)

        def forward(self, ids, labels):
            x = self.wte(ids) + self.wpe(torch.arange(ids.shape[1]))
            for block in self.blocks:
                x = block(x)
            logits = self.ln_f(x) @ self.wte.weight.t()
            return F.cross_entropy(logits.view(-1, vocab), labels.view(-1))

    model = Gpt2()
    forward = torch.compile(model) if compiled else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.1, fused=True)
    ids = torch.randint(0, 50257, (batch, seq + 1))
    times = []
    warm_up = 3
    for i in range(steps + warm_up):
        begin = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bfloat16"):
            loss = forward(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if i >= warm_up:
            times.append(time.perf_counter() - begin)
    print(json.dumps({
        "median_seconds": statistics.median(times),
        "best_seconds": min(times),
        "loss": loss.item(),
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "version": torch.__version__,
    }))


def run(command, threads):
    env = dict(os.environ, OMP_NUM_THREADS=str(threads), OMP_PROC_BIND="true",
               MALLOC_TRIM_THRESHOLD_="100000000000", MALLOC_MMAP_THRESHOLD_="100000000000",
               MALLOC_TOP_PAD_="100000000")
    result = subprocess.run(command, env=env, capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(f"{' '.join(command)} failed:\n{result.stdout}{result.stderr}")
    return json.loads(result.stdout.strip().splitlines()[-1])


def others_cpu_share(before, after, own):
    """Share of the machine that other processes used, from /proc/stat."""
    busy, total = after[0] - before[0], after[1] - before[1]
    return max(0.0, (busy - own)) / max(total, 1e-9)


def cpu_times():
    fields = [int(x) for x in open("/proc/stat").readline().split()[1:9]]
    tick = os.sysconf("SC_CLK_TCK")
    total = sum(fields) / tick
    return total - (fields[3] + fields[4]) / tick, total


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--compile", action="store_true", help="also measure torch.compile")
    parser.add_argument("--build", default=str(ROOT / "build/release/bin"))
    parser.add_argument("--torch-worker", nargs=5, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.torch_worker:
        b, s, precision, steps, compiled = args.torch_worker
        return torch_worker(int(b), int(s), precision, int(steps), compiled == "1")

    variants = ["eager"] + (["compiled"] if args.compile else [])
    print(f"GPT-2-124M, {args.threads} threads, median of {args.rounds} rounds of {args.steps} steps; tokens/s")
    print(f"{'shape':>9} {'precision':>9} {'neox':>7} {'torch':>7} {'ratio':>6} {'plain':>7} {'of it':>6} {'+att.':>7} {'of it':>6} {'packed':>7} {'of it':>6} "
          f"{'RSS GB':>7} {'torch':>6} {'allocs':>6} {'others':>6}")
    for batch, seq in SHAPES:
        for precision in ("fp32", "bfloat16"):
            ours, theirs, shares = [], {v: [] for v in variants}, []
            for _ in range(args.rounds):
                before, own = cpu_times(), os.times()
                ours.append(run([f"{args.build}/bench_train_step", str(batch), str(seq), precision,
                                 str(args.steps)], args.threads))
                for v in variants:
                    theirs[v].append(run([sys.executable, __file__, "--torch-worker", str(batch), str(seq),
                                          precision, str(args.steps), str(int(v == "compiled"))], args.threads))
                spent = os.times()
                used = (spent.children_user - own.children_user) + (spent.children_system - own.children_system)
                shares.append(others_cpu_share(before, cpu_times(), used))
            tokens = batch * seq
            median = lambda runs: statistics.median(r["median_seconds"] for r in runs)
            best_variant = min(variants, key=lambda v: median(theirs[v]))
            mine, rival = tokens / median(ours), tokens / median(theirs[best_variant])
            ceilings = ""
            for name in ("plain_ceiling", "attention_ceiling", "packed_ceiling"):
                ceiling = statistics.median(r[name] for r in ours)
                share = statistics.median(tokens / r["median_seconds"] / r[name] for r in ours)
                ceilings += f"{ceiling:7.0f} {share:6.1%} "
            print(f"{batch:>4}x{seq:<4} {precision:>9} {mine:7.0f} {rival:7.0f} {mine / rival:6.2f} {ceilings}"
                  f"{max(r['peak_rss_bytes'] for r in ours) / 1e9:7.2f} "
                  f"{min(r['peak_rss_bytes'] for r in theirs[best_variant]) / 1e9:6.2f} "
                  f"{max(r['steady_state_allocations'] for r in ours):6d} {max(shares):6.1%}"
                  f"  (torch {theirs[best_variant][0]['version']}, {best_variant})", flush=True)


if __name__ == "__main__":
    main()
