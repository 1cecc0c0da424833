#pragma once
// What kernels/cuda/elementwise.cpp asks of activation.cu and elementwise.cu. Plain types only:
// nvcc cannot compile the compile-time checked messages of core/base/error.h.
// n, rows, width may be 0; outputs may be inputs where kernels/elementwise.h says so. The caller
// checks cudaGetLastError().

#include <cstdint>

#include "core/base/dtype.h"
#include "core/base/model_types.h"
#include "kernels/cuda/kernel_launch.h"
#include "kernels/dropout.h"

namespace neox::cuda {

/// y[n] = act(x[n])
void activation(const Launch&, Activation, DType, const void* x, void* y, std::int64_t n);
/// dx[n] = act'(x[n]) dy[n]
void activation_backward(const Launch&, Activation, DType, const void* x, const void* dy, void* dx,
                         std::int64_t n);
/// x [rows, 2 width] = [gate | up], y [rows, width]
void gated_activation(const Launch&, Activation, DType, const void* x, void* y, std::int64_t rows,
                      std::int64_t width);
/// x, dx [rows, 2 width], dy [rows, width]
void gated_activation_backward(const Launch&, Activation, DType, const void* x, const void* dy,
                               void* dx, std::int64_t rows, std::int64_t width);

/// y = residual + dropout(a) + dropout(b), all [rows, width]; residual and b may be null.
struct DropoutSum {
  const void* residual = nullptr;
  const void* a = nullptr;
  const void* b = nullptr;
  Dropout dropout_a{};
  Dropout dropout_b{};
  void* y = nullptr;
  std::int64_t rows = 0;
  std::int64_t width = 0;
};
void dropout_sum(const Launch&, DType, const DropoutSum&);

/// y[n] = x[n] in another dtype
void cast(const Launch&, DType from, const void* x, DType to, void* y, std::int64_t n);
/// y[n] += x[n]; x is of y's dtype or f32
void add_into(const Launch&, DType x_type, const void* x, DType y_type, void* y, std::int64_t n);

}  // namespace neox::cuda
