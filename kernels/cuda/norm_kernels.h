#pragma once
// What kernels/cuda/norm.cpp asks of norm_forward.cu and norm_backward.cu. Plain types only. The
// caller checks cudaGetLastError().

#include <cstddef>
#include <cstdint>

#include "core/base/dtype.h"
#include "kernels/cuda/kernel_launch.h"

namespace neox::cuda {

/// x, y [rows, h]; w, b [h], b may be null; mean, rstd f32 [rows], mean null for rms_norm.
struct NormForward {
  DType dtype;
  std::int64_t rows, h;
  const void *x, *w, *b;
  float eps;
  void* y;
  float *mean, *rstd;
};
void norm_forward(const Launch&, const NormForward&);

/// As kernels/norm.h: dx or dw may be null, mean is null for rms_norm. Without dw, db is null.
struct NormBackward {
  DType dtype;
  std::int64_t rows, h;
  const void *dy, *x, *w;
  const float *mean, *rstd;
  const void* residual_grad;
  void* dx;
  float *dw, *db;
  bool accumulate;
};
/// Bytes of scratch that a call with dw needs.
std::size_t norm_backward_scratch(int multiprocessors, DType, std::int64_t rows, std::int64_t h);
void norm_backward(const Launch&, const NormBackward&, float* scratch);

}  // namespace neox::cuda
