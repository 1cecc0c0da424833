#pragma once
// What kernels/cuda/loss.cpp asks of loss.cu. Plain types only. The caller checks
// cudaGetLastError().

#include <cstdint>

#include "core/base/dtype.h"
#include "kernels/cuda/kernel_launch.h"

namespace neox::cuda {

/// Columns [first, first + columns) of the vocabulary, of which `valid` are no padding.
struct Logits {
  DType dtype;
  const void* data;  ///< [rows, columns]
  std::int64_t rows, columns, first, valid;
  const std::int32_t* labels;  ///< [rows], of the whole vocabulary
  const float* weights;        ///< [rows]
};

/// stats [rows, 2], as LossOps::cross_entropy_partial.
void loss_stats(const Launch&, const Logits&, double* stats);

/// losses [rows] and, unless null, dlogits [rows, columns], as LossOps::cross_entropy; with parts
/// [ranks, rows, 2], as cross_entropy_combine.
void losses_and_gradients(const Launch&, const Logits&, const double* parts, std::int64_t ranks,
                          float* losses, DType gradient_type, void* dlogits);

}  // namespace neox::cuda
