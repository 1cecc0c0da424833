#include "kernels/cpu/gemm_ceiling.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <vector>

#include "core/base/error.h"
#include "kernels/cpu/matmul.h"

namespace neox {
namespace {

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// A product of the step, and how often it occurs.
struct Product {
  MatmulProblem plain;
  MatmulProblem packed;
  std::int64_t count;
};

// The three products of a linear layer [in -> out], on plain matrices and on preferred layouts. The
// weight gradient's preferred left-hand side is dy already transposed.
void add_linear(std::vector<Product>& products, std::int64_t rows, std::int64_t in,
                std::int64_t out, DType dtype, std::int64_t count) {
  const auto add = [&](const MatmulProblem& plain) {
    MatmulProblem packed = plain;
    packed.rhs = Rhs::packed;
    packed.ldb = 0;
    if (plain.transpose_a) {
      packed.transpose_a = false;
      packed.lda = plain.k;
    }
    products.push_back({plain, packed, count});
  };
  add({.m = rows,
       .n = out,
       .k = in,
       .lda = in,
       .ldb = in,
       .ldc = out,
       .in = dtype,
       .out = dtype,
       .rhs = Rhs::transposed});
  add({.m = rows,
       .n = in,
       .k = out,
       .lda = out,
       .ldb = in,
       .ldc = in,
       .in = dtype,
       .out = dtype,
       .rhs = Rhs::rows});
  add({.m = out,
       .n = in,
       .k = rows,
       .lda = out,
       .ldb = in,
       .ldc = in,
       .in = dtype,
       .out = DType::f32,
       .rhs = Rhs::rows,
       .transpose_a = true});
}

struct Operands {
  explicit Operands(const std::vector<Product>& products, Matmul& matmul) {
    std::size_t a_bytes = 0, b_bytes = 0, c_bytes = 0;
    const auto bytes = [](std::int64_t rows, std::int64_t cols, DType dtype) {
      return static_cast<std::size_t>(rows * cols) * size_of(dtype);
    };
    for (const Product& p : products) {
      a_bytes = std::max(a_bytes, bytes(p.plain.m, p.plain.k, p.plain.in));
      b_bytes = std::max(
          {b_bytes, bytes(p.plain.k, p.plain.n, p.plain.in), matmul.packed_bytes(p.packed)});
      c_bytes = std::max(c_bytes, bytes(p.plain.m, p.plain.n, p.plain.out));
    }
    for (Buffer* buffer : {&a, &b, &c}) {
      const std::size_t size = buffer == &a ? a_bytes : buffer == &b ? b_bytes : c_bytes;
      *buffer = Buffer(size, Device{});
      std::fill_n(buffer->data(), size, std::byte{0});  // any finite value: the time is the same
    }
  }
  Buffer a, b, c;
};

}  // namespace

GemmCeiling measure_gemm_ceiling(const GemmCeilingProblem& problem, int passes) {
  require(problem.dtype == DType::f32 || problem.dtype == DType::bf16,
          "the GEMM ceiling is measured in f32 or bf16, not in {}", name_of(problem.dtype));
  const std::int64_t h = problem.hidden_size, f = problem.intermediate_size;
  std::vector<Product> products;
  const auto layer = [&](std::int64_t in, std::int64_t out) {
    add_linear(products, problem.rows, in, out, problem.dtype, problem.num_layers);
  };
  layer(h, 3 * h);
  layer(h, h);
  layer(h, f);
  layer(f, h);
  add_linear(products, problem.rows, h, problem.vocab_size, problem.dtype, 1);

  Matmul matmul;
  const Operands operands(products, matmul);
  GemmCeiling ceiling;
  for (const Product& p : products) {
    double best_plain = std::numeric_limits<double>::infinity(), best_packed = best_plain;
    const auto time = [&](const MatmulProblem& what, double& best) {
      const double start = now();
      matmul.run(what, operands.a.data(), operands.b.data(), nullptr, operands.c.data());
      best = std::min(best, now() - start);
    };
    // A product that occurs in every layer is timed as often as there are layers; alternating the
    // two ways lets a slow moment hit both.
    const std::int64_t runs = passes * std::min<std::int64_t>(p.count, 4) + 1;
    for (std::int64_t run = 0; run < runs; ++run) {
      time(p.plain, best_plain);
      time(p.packed, best_packed);
    }
    const auto count = static_cast<double>(p.count);
    ceiling.flops += 2.0 * static_cast<double>(p.plain.m) * static_cast<double>(p.plain.n) *
                     static_cast<double>(p.plain.k) * count;
    ceiling.plain_seconds += best_plain * count;
    ceiling.packed_seconds += best_packed * count;
  }
  return ceiling;
}

}  // namespace neox
