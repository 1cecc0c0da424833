#pragma once
// Normalisation over the last axis. Statistics in f32.

#include "core/tensor/tensor.h"

namespace neox {

class NormOps {
 public:
  virtual ~NormOps() = default;

  /// y = (x - mean) rstd w + b, rstd = 1/sqrt(var + eps), biased variance.
  /// x, y [rows, h]: T; w, b [h]: T (b may be empty); mean, rstd [rows]: f32, for backward.
  virtual void layer_norm(Stream& stream, ConstTensor x, ConstTensor w, ConstTensor b, float eps,
                          Tensor y, Tensor mean, Tensor rstd) const = 0;

  /// dx = residual_grad + J^T dy; dw (+)= sum dy xhat; db (+)= sum dy.
  /// dy, x, dx [rows, h]: T; residual_grad: T, empty means 0, may be dx itself; dw, db [h]: f32, db
  /// may be empty. `accumulate` concerns dw and db only.
  /// Without dx only dw and db are computed (w and residual_grad are not read); without dw, which
  /// must then come without db, only dx. Each result has the same bits as in the joint call.
  virtual void layer_norm_backward(Stream& stream, ConstTensor dy, ConstTensor x, ConstTensor w,
                                   ConstTensor mean, ConstTensor rstd, ConstTensor residual_grad,
                                   Tensor dx, Tensor dw, Tensor db, bool accumulate) const = 0;

  /// y = x rstd w, rstd = 1/sqrt(mean(x^2) + eps). Shapes and dtypes as layer_norm.
  virtual void rms_norm(Stream& stream, ConstTensor x, ConstTensor w, float eps, Tensor y,
                        Tensor rstd) const = 0;

  /// As layer_norm_backward; dx or dw may be empty.
  virtual void rms_norm_backward(Stream& stream, ConstTensor dy, ConstTensor x, ConstTensor w,
                                 ConstTensor rstd, ConstTensor residual_grad, Tensor dx, Tensor dw,
                                 bool accumulate) const = 0;
};

}  // namespace neox
