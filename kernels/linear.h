#pragma once
// Matrix products with weights.

#include "core/tensor/tensor.h"

namespace neox {

/// Weights are stored [out, in]: y = x W^T + b. Compute dtype T is the dtype of x and w.
class LinearOps {
 public:
  virtual ~LinearOps() = default;

  /// y[rows, out] = x[rows, in] w[out, in]^T + bias[out].
  /// x, w: T; bias: T or empty; y: T, or f32 (logits). Accumulation in f32.
  virtual void linear(Stream& stream, ConstTensor x, ConstTensor w, ConstTensor bias,
                      Tensor y) const = 0;

  /// dx[rows, in] (+)= dy[rows, out] w[out, in]. dy, w, dx: T. With `accumulate`, adds to dx.
  virtual void linear_backward_input(Stream& stream, ConstTensor dy, ConstTensor w, Tensor dx,
                                     bool accumulate) const = 0;

  /// dw[out, in] (+)= dy[rows, out]^T x[rows, in]; db[out] (+)= sum over rows of dy.
  /// dy, x: T; dw: f32; db: f32 or empty. With `accumulate`, adds; otherwise overwrites.
  virtual void linear_backward_weight(Stream& stream, ConstTensor dy, ConstTensor x, Tensor dw,
                                      Tensor db, bool accumulate) const = 0;

  /// Weights are about to be used many times unchanged, or have changed: the backend drops copies
  /// derived from them (packed or converted weights). Called once after every change of weights.
  virtual void weights_changed() const = 0;
};

}  // namespace neox
