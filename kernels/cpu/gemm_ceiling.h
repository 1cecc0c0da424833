#pragma once
// The speed of light of a training step: how fast the matrix products alone would run.

#include <cstdint>

#include "core/base/dtype.h"

namespace neox {

/// The linear layers of a GPT-2-style model. Defaults: GPT-2 124M with a padded vocabulary.
struct GemmCeilingProblem {
  std::int64_t hidden_size = 768;
  std::int64_t intermediate_size = 3072;
  std::int64_t num_layers = 12;
  std::int64_t vocab_size = 50304;
  std::int64_t rows = 1024;  ///< tokens of one step: batch x sequence
  DType dtype = DType::f32;  ///< f32 or bf16
};

/// Time of all products of one step: forward x W^T, input gradient dy W, and weight gradient dy^T x
/// into f32. Each product's best time, with its operands as warm as repeating it leaves them.
struct GemmCeiling {
  double flops = 0;           ///< of all products, 2 m n k each
  double plain_seconds = 0;   ///< the library on plain row-major matrices
  double packed_seconds = 0;  ///< on the library's preferred layouts, packing not counted
  double plain_gflops() const { return flops / plain_seconds * 1e-9; }
  double packed_gflops() const { return flops / packed_seconds * 1e-9; }
};

/// Measures with the current number of OpenMP threads. Takes about 2 x passes x (a third of a
/// step), and memory for the largest product. Throws Error for other dtypes.
GemmCeiling measure_gemm_ceiling(const GemmCeilingProblem& problem, int passes = 3);

}  // namespace neox
