// Speed of the CPU attention at GPT-2-124M's shapes, next to this machine's multiply-add peak.
//   bench_attention [repetitions]      (threads: OMP_NUM_THREADS)
// FLOPs count the causal half only: 4 d per visible (query, key) pair forward, 10 d backward.
#include "kernels/cpu/attention.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <random>

#include <fmt/core.h>
#include <omp.h>

#include "core/tensor/buffer.h"
#include "kernels/cpu/attention_tiles.h"

namespace {

using namespace neox;

double seconds(const std::function<void()>& f) {
  const auto start = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// GFLOP/s of all threads with nothing but multiply-adds on registers: the sum of each thread's best
// short slice, so that other load on the machine does not lower it.
template <class P>
double peak() {
  constexpr int kChains = 16;
  constexpr std::int64_t kSteps = 1 << 13;
  double total = 0;
#pragma omp parallel reduction(+ : total)
  {
    double best = 1e30;
    for (int slice = 0; slice < 2000; ++slice) {
      float sink = 0;
      best = std::min(best, seconds([&] {
                        typename P::F acc[kChains];
                        for (auto& a : acc) a = simd::Floats{};
                        const typename P::F x = simd::broadcast(1e-3f);
                        for (std::int64_t i = 0; i < kSteps; ++i) {
#pragma GCC unroll 16
                          for (auto& a : acc) a = P::multiply_add(a, x, x);
                        }
                        for (const auto& a : acc) sink += P::Simd::reduce_add(a);
                      }));
      volatile float keep = sink;
      static_cast<void>(keep);
    }
    total += 2e-9 * simd::kLanes * P::kPair * kChains * kSteps / best;
  }
  return total;
}

void fill(Tensor t) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  visit_float(t.dtype, [&](auto zero) {
    using T = decltype(zero);
    for (T& x : t.span<T>()) x = static_cast<T>(normal(random));
  });
}

struct Times {
  double forward = 1e30, backward = 1e30;
};

Times measure(std::int64_t batch, std::int64_t length, DType dtype, int repetitions) {
  constexpr std::int64_t kHeads = 12, kDim = 64;
  const AttentionProblem p{batch, length, length, kHeads, kHeads, kDim, 0.125f};
  OwnedTensor qkv({batch * length, 3 * kHeads * kDim}, dtype), dqkv(qkv.tensor.shape, dtype);
  OwnedTensor out({batch * length, kHeads * kDim}, dtype), dout(out.tensor.shape, dtype);
  OwnedTensor lse({batch, kHeads, length}, DType::f32);
  OwnedTensor workspace({static_cast<std::int64_t>(cpu::attention_backward_workspace(p))},
                        DType::u8);
  fill(qkv);
  fill(dout);
  const auto heads = [&](const Tensor& t, std::int64_t part) {
    return Heads(t, length, part * kDim, 3 * kDim);
  };
  Times best;
  for (int r = 0; r < repetitions; ++r) {
    best.forward =
        std::min(best.forward, seconds([&] {
                   cpu::attention_forward(p, heads(qkv, 0), heads(qkv, 1), heads(qkv, 2), out, lse);
                 }));
    best.backward = std::min(best.backward, seconds([&] {
                               cpu::attention_backward(
                                   p, heads(qkv, 0), heads(qkv, 1), heads(qkv, 2), out, lse, dout,
                                   heads(dqkv, 0), heads(dqkv, 1), heads(dqkv, 2), workspace);
                             }));
  }
  return best;
}

// Streams a cache of `keys` positions with one query per head; returns GB/s of keys and values.
double measure_decoding(std::int64_t batch, std::int64_t keys, DType dtype, int repetitions) {
  constexpr std::int64_t kHeads = 12, kDim = 64;
  const AttentionProblem p{batch, 1, keys, kHeads, kHeads, kDim, 0.125f};
  OwnedTensor q({batch, kHeads * kDim}, dtype), out(q.tensor.shape, dtype);
  OwnedTensor k({batch * keys, kHeads * kDim}, dtype), v(k.tensor.shape, dtype);
  for (const Tensor& t : {q.tensor, k.tensor, v.tensor}) fill(t);
  double best = 1e30;
  for (int r = 0; r < repetitions; ++r) {
    best = std::min(best, seconds([&] {
                      cpu::attention_forward(p, Heads(q, 1, 0, kDim), Heads(k, keys, 0, kDim),
                                             Heads(v, keys, 0, kDim), out, Tensor{});
                    }));
  }
  return 1e-9 * static_cast<double>(k.tensor.bytes() + v.tensor.bytes()) / best;
}

}  // namespace

int main(int argc, char** argv) {
  const int repetitions = argc > 1 ? std::max(1, std::atoi(argv[1])) : 20;
  const double peak_f32 = peak<cpu::FloatProduct<simd::Best>>();
#ifdef NEOX_ATTENTION_BF16
  const double peak_bf16 = peak<cpu::Bf16Product>();
#else
  const double peak_bf16 = peak_f32;
#endif
  fmt::print("{} threads; multiply-add peak: f32 {:.0f} GFLOP/s, bf16 {:.0f} GFLOP/s\n",
             omp_get_max_threads(), peak_f32, peak_bf16);
  fmt::print("{:>5} {:>6} {:>6} {:>10} {:>9} {:>7} {:>11} {:>9} {:>7}\n", "dtype", "batch",
             "length", "forward ms", "GFLOP/s", "of f32", "backward ms", "GFLOP/s", "of f32");
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const auto& [batch, length] : {std::pair{4, 256}, {1, 1024}, {1, 2048}}) {
      const Times t = measure(batch, length, dtype, repetitions);
      const double pairs = 0.5 * length * (length + 1) * 12 * 64 * batch;
      const double forward = 4e-9 * pairs / t.forward, backward = 10e-9 * pairs / t.backward;
      fmt::print("{:>5} {:>6} {:>6} {:>10.3f} {:>9.1f} {:>6.0f}% {:>11.3f} {:>9.1f} {:>6.0f}%\n",
                 name_of(dtype), batch, length, 1e3 * t.forward, forward, 100 * forward / peak_f32,
                 1e3 * t.backward, backward, 100 * backward / peak_f32);
    }
  }
  for (const DType dtype : {DType::f32, DType::bf16}) {
    fmt::print("decoding, {} cache of 4 x 1024 positions: {:.1f} GB/s\n", name_of(dtype),
               measure_decoding(4, 1024, dtype, repetitions));
  }
  return 0;
}
