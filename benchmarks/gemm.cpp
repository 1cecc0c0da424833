// GEMM-only ceiling of a GPT-2 124M training step, and how near our linear operators come to it:
//   bench_gemm [rows=1024] [layers=12]
// Both are measured in this process, alternating, on OMP_NUM_THREADS threads.
#include "kernels/cpu/gemm.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <limits>
#include <vector>

#include <fmt/core.h>
#include <omp.h>

#include "core/tensor/buffer.h"
#include "kernels/cpu/gemm_ceiling.h"

namespace {

using namespace neox;

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

template <class F>
double best_of(int runs, F&& f) {
  double best = std::numeric_limits<double>::infinity();
  for (int i = 0; i < runs; ++i) {
    const double start = now();
    f();
    best = std::min(best, now() - start);
  }
  return best;
}

struct LayerTimes {
  double forward, forward_kept, input, input_kept, weight, weight_accumulate;
};

OwnedTensor zeros(Shape shape, DType dtype) {
  OwnedTensor t(shape, dtype);
  std::fill_n(t.tensor.data, t.tensor.bytes(), std::byte{0});
  return t;
}

LayerTimes time_layer(std::int64_t rows, std::int64_t in, std::int64_t out, DType dtype) {
  CpuGemm gemm;
  const OwnedTensor x = zeros({rows, in}, dtype), w = zeros({out, in}, dtype),
                    bias = zeros({out}, dtype), y = zeros({rows, out}, dtype),
                    dx = zeros({rows, in}, dtype), dw = zeros({out, in}, DType::f32),
                    db = zeros({out}, DType::f32);
  const auto forward = [&] { gemm.forward(x, w, bias, y); };
  const auto input = [&] { gemm.backward_input(y, w, dx, false); };
  const int runs = out > 10000 ? 4 : 16;
  LayerTimes t{};
  t.forward = best_of(runs, [&] { gemm.weights_changed(), forward(); });
  t.input = best_of(runs, [&] { gemm.weights_changed(), input(); });
  t.forward_kept = best_of(runs, forward);
  t.input_kept = best_of(runs, input);
  t.weight = best_of(runs, [&] { gemm.backward_weight(y, x, dw, db, false); });
  t.weight_accumulate = best_of(runs, [&] { gemm.backward_weight(y, x, dw, db, true); });
  return t;
}

void report(DType dtype, std::int64_t rows, std::int64_t layers) {
  GemmCeilingProblem problem;
  problem.rows = rows;
  problem.num_layers = layers;
  problem.dtype = dtype;
  const GemmCeiling ceiling = measure_gemm_ceiling(problem);
  const auto line = [&](const char* what, double seconds) {
    fmt::print("  {:<44} {:7.1f} GFLOP/s  {:8.1f} ms  {:7.0f} tokens/s  {:5.1f} %\n", what,
               ceiling.flops / seconds * 1e-9, seconds * 1e3, static_cast<double>(rows) / seconds,
               100.0 * ceiling.packed_seconds / seconds);
  };
  fmt::print("{}, {} rows, {} threads\n", name_of(dtype), rows, omp_get_max_threads());
  line("oneDNN, plain matrices", ceiling.plain_seconds);
  line("oneDNN, packed beforehand (the ceiling)", ceiling.packed_seconds);
  const std::int64_t h = problem.hidden_size, f = problem.intermediate_size;
  const struct {
    const char* name;
    std::int64_t in, out, count;
  } linears[] = {{"qkv", h, 3 * h, layers},
                 {"attention projection", h, h, layers},
                 {"mlp up", h, f, layers},
                 {"mlp down", f, h, layers},
                 {"head", h, problem.vocab_size, 1}};
  double once = 0, kept = 0;
  fmt::print("  {:<22} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}  GFLOP/s\n", "linear operators",
             "forward", "+kept", "dx", "+kept", "dw+db", "accumulate");
  for (const auto& l : linears) {
    const LayerTimes t = time_layer(rows, l.in, l.out, dtype);
    const double flops = 2e-9 * static_cast<double>(rows * l.in * l.out);
    fmt::print("  {:<22} {:9.1f} {:9.1f} {:9.1f} {:9.1f} {:9.1f} {:9.1f}\n", l.name,
               flops / t.forward, flops / t.forward_kept, flops / t.input, flops / t.input_kept,
               flops / t.weight, flops / t.weight_accumulate);
    once += static_cast<double>(l.count) * (t.forward + t.input + t.weight);
    kept += static_cast<double>(l.count) * (t.forward_kept + t.input_kept + t.weight_accumulate);
  }
  line("linear operators, weights used once a step", once);
  line("linear operators, further micro-steps", kept);
}

}  // namespace

int main(int argc, char** argv) {
  const std::int64_t rows = argc > 1 ? std::atoll(argv[1]) : 1024;
  const std::int64_t layers = argc > 2 ? std::atoll(argv[2]) : 12;
  if (rows < 1 || layers < 1) {
    fmt::print(stderr, "usage: bench_gemm [rows] [layers], both positive\n");
    return 1;
  }
  report(DType::f32, rows, layers);
  if (CpuGemm().fast(DType::bf16)) {
    report(DType::bf16, rows, layers);
  } else {
    fmt::print("bf16: this CPU has no bf16 dot products; they run in f32 after a conversion\n");
  }
}
