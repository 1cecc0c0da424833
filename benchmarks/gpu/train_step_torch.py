#!/usr/bin/env python3
"""The training steps of bench_gpu_train_step in PyTorch: the same shapes, layers and batches.

    python3 benchmarks/gpu/train_step_torch.py --neox step.json [--json torch.json] [--steps 10]

Reads what bench_gpu_train_step --json wrote, and prints tokens/s of both and their ratio. PyTorch
gets bf16 weights with f32 main weights, fused AdamW on those, torch.compile, and
scaled_dot_product_attention with each backend that takes the problem; the fastest counts.
"""
import argparse
import gc
import json
import statistics
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel


class Block(nn.Module):
    def __init__(self, r):
        super().__init__()
        h = r["hidden"]
        self.heads, self.head_dim, self.gpt2 = r["heads"], h // r["heads"], r["gpt2"]
        self.rotary_dim = 0 if self.gpt2 else self.head_dim // 4
        self.ln1, self.ln2 = nn.LayerNorm(h), nn.LayerNorm(h)
        self.qkv, self.proj = nn.Linear(h, 3 * h), nn.Linear(h, h)
        self.fc, self.fcproj = nn.Linear(h, 4 * h), nn.Linear(4 * h, h)

    def rotate(self, x, cos, sin):
        head, tail = x[..., :self.rotary_dim], x[..., self.rotary_dim:]
        a, b = head.chunk(2, dim=-1)
        turned = torch.cat((-b, a), dim=-1)
        return torch.cat((head * cos + turned * sin, tail), dim=-1)

    def attend(self, x, cos, sin):
        b, s, h = x.shape
        q, k, v = (t.view(b, s, self.heads, self.head_dim).transpose(1, 2)
                   for t in self.qkv(x).split(h, dim=2))
        if self.rotary_dim:
            q, k = self.rotate(q, cos, sin), self.rotate(k, cos, sin)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.proj(y.transpose(1, 2).reshape(b, s, h))

    def mlp(self, x):
        return self.fcproj(F.gelu(self.fc(x), approximate="tanh" if self.gpt2 else "none"))

    def forward(self, x, cos, sin):
        if self.gpt2:
            x = x + self.attend(self.ln1(x), cos, sin)
            return x + self.mlp(self.ln2(x))
        return x + self.attend(self.ln1(x), cos, sin) + self.mlp(self.ln2(x))


class Model(nn.Module):
    def __init__(self, r):
        super().__init__()
        h, vocab = r["hidden"], r["vocab"]
        self.gpt2 = r["gpt2"]
        self.wte = nn.Embedding(vocab, h)
        if self.gpt2:
            self.wpe = nn.Embedding(r["seq"], h)
        else:
            self.head = nn.Linear(h, vocab, bias=False)
        self.blocks = nn.ModuleList(Block(r) for _ in range(r["layers"]))
        self.ln_f = nn.LayerNorm(h)
        half = self.blocks[0].rotary_dim // 2
        if half:
            frequencies = 10000.0 ** (-torch.arange(half) / half)
            angles = torch.outer(torch.arange(r["seq"]), frequencies).repeat(1, 2)
            self.register_buffer("cos", angles.cos())
            self.register_buffer("sin", angles.sin())
        else:
            self.cos = self.sin = None
        for p in self.parameters():
            if p.dim() > 1:
                nn.init.normal_(p, std=0.02)

    def forward(self, ids, labels):
        x = self.wte(ids)
        if self.gpt2:
            x = x + self.wpe.weight
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        x = self.ln_f(x)
        logits = F.linear(x, self.wte.weight) if self.gpt2 else self.head(x)
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), labels.view(-1))


def synchronize(device):
    if device == "cuda":
        torch.cuda.synchronize()


def measure(r, backend, args):
    """Seconds of the timed steps, peak bytes, last loss."""
    torch.manual_seed(1)
    with torch.device(args.device):
        model = Model(r).to(torch.bfloat16)
        ids = torch.randint(0, r["vocab"], (r["batch"], r["seq"] + 1))
    tokens, labels = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
    parameters = list(model.parameters())
    mains = [p.detach().float() for p in parameters]
    for main in mains:
        main.grad = torch.zeros_like(main)
    gradients = [main.grad for main in mains]
    optimizer = torch.optim.AdamW(mains, lr=1e-4, weight_decay=0.1, fused=True)
    forward = model if args.eager else torch.compile(model)
    if args.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    with sdpa_kernel(backend):
        for i in range(args.warm_up + args.steps):
            synchronize(args.device)
            begin = time.perf_counter()
            loss = forward(tokens, labels)
            loss.backward()
            torch._foreach_copy_(gradients, [p.grad for p in parameters])
            torch.nn.utils.clip_grad_norm_(mains, 1.0, foreach=True)
            optimizer.step()
            with torch.no_grad():
                torch._foreach_copy_(parameters, mains)
            for p in parameters:
                p.grad = None
            synchronize(args.device)
            if i >= args.warm_up:
                seconds.append(time.perf_counter() - begin)
    peak = torch.cuda.max_memory_allocated() if args.device == "cuda" else 0
    return seconds, peak, loss.item()


def fastest(r, args):
    best, refused = None, []
    for name in args.attention:
        try:
            seconds, peak, loss = measure(r, getattr(SDPBackend, name), args)
        except Exception as error:  # one backend's refusal must not end the run
            refused.append(f"{name}: {str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__}")
            seconds = None
        torch.compiler.reset()
        gc.collect()
        if args.device == "cuda":
            torch.cuda.empty_cache()
        if seconds is None:
            continue
        found = {"shape": r["shape"], "attention": name, "median_seconds": statistics.median(seconds),
                 "best_seconds": min(seconds), "peak_bytes": peak, "loss": loss,
                 "compiled": not args.eager, "version": torch.__version__,
                 "tokens_per_second": r["batch"] * r["seq"] / statistics.median(seconds)}
        if best is None or found["median_seconds"] < best["median_seconds"]:
            best = found
    return best, refused


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--neox", required=True, help="what bench_gpu_train_step --json wrote")
    parser.add_argument("--json", help="write all figures to this file")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--warm-up", type=int, default=3)
    parser.add_argument("--eager", action="store_true", help="without torch.compile")
    parser.add_argument("--attention", nargs="+", default=["CUDNN_ATTENTION", "FLASH_ATTENTION"],
                        help="names of torch.nn.attention.SDPBackend")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        sys.exit("PyTorch has no GPU here")
    results = []
    print(f"{'shape':<10} {'neox tok/s':>11} {'torch tok/s':>11} {'ratio':>6} {'neox GB':>8} {'torch GB':>8}  torch's way")
    with open(args.neox) as file:
        records = json.load(file)
    for r in records:
        best, refused = fastest(r, args)
        for line in refused:
            print(f"{r['shape']}: {line}", file=sys.stderr)
        if best is None:
            print(f"{r['shape']:<10} PyTorch could not run this shape")
            continue
        best["ratio"] = r["tokens_per_second"] / best["tokens_per_second"]
        results.append(best)
        way = f"{best['version']}, {best['attention']}{'' if args.eager else ', compiled'}"
        print(f"{r['shape']:<10} {r['tokens_per_second']:>11.0f} {best['tokens_per_second']:>11.0f} {best['ratio']:>6.2f} "
              f"{r['peak_bytes'] / 1e9:>8.2f} {best['peak_bytes'] / 1e9:>8.2f}  {way}", flush=True)
        if args.json:
            with open(args.json, "w") as file:
                json.dump(results, file, indent=1)
    return 0 if len(results) == len(records) else 1


if __name__ == "__main__":
    sys.exit(main())
