#pragma once
// What kernels/cuda/factored.cpp asks of factored.cu. Plain types only. The caller checks
// cudaGetLastError().

#include <cstddef>
#include <cstdint>

#include "core/base/dtype.h"
#include "kernels/cuda/kernel_launch.h"
#include "kernels/factored_rules.h"

namespace neox::cuda {

/// n elements; grad [n], grad_scale [1]; rows, columns: of the whole matrix, columns null for a
/// vector.
struct FactoredInput {
  MatrixPart part;
  std::int64_t n;
  const float *grad, *grad_scale, *rows, *columns;
};

/// f32 of columns that a scratch of sm3_maxima has.
std::int64_t sm3_scratch_elements(const MatrixPart& part, std::int64_t n);
/// new_columns, scratch: null for a vector.
void sm3_maxima(const Launch&, const Sm3&, const FactoredInput&, float* scratch, float* new_rows,
                float* new_columns);

/// momentum [n] or null; weights [n] of `weights_type` (bf16 or f16) or null.
struct Sm3Arrays {
  float *main, *momentum;
  void* weights;
  DType weights_type;
};
void sm3_step(const Launch&, const Sm3&, const FactoredInput&, const Sm3Arrays&);

}  // namespace neox::cuda
