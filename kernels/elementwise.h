#pragma once
// Activations, residual sums, dropout, casts.

#include "core/base/model_types.h"
#include "core/tensor/tensor.h"
#include "kernels/dropout.h"

namespace neox {

class ElementwiseOps {
 public:
  virtual ~ElementwiseOps() = default;

  /// y = act(x). x, y: T, same shape; y may be x.
  virtual void activation(Stream& stream, Activation kind, ConstTensor x, Tensor y) const = 0;
  /// dx = act'(x) dy. dx may be dy.
  virtual void activation_backward(Stream& stream, Activation kind, ConstTensor x, ConstTensor dy,
                                   Tensor dx) const = 0;

  /// y[rows, f] = act(x[:, :f]) x[:, f:]; x [rows, 2f] is [gate | up].
  virtual void gated_activation(Stream& stream, Activation kind, ConstTensor x, Tensor y) const = 0;
  /// dx [rows, 2f] = [d gate | d up].
  virtual void gated_activation_backward(Stream& stream, Activation kind, ConstTensor x,
                                         ConstTensor dy, Tensor dx) const = 0;

  /// y = residual + dropout(a) + dropout(b); residual and b may be empty (= 0). All T; y may be
  /// residual, a or b.
  virtual void residual_add(Stream& stream, ConstTensor residual, ConstTensor a,
                            const Dropout& dropout_a, ConstTensor b, const Dropout& dropout_b,
                            Tensor y) const = 0;

  /// y = dropout(x) (also the backward of itself). y may be x.
  virtual void dropout(Stream& stream, ConstTensor x, const Dropout& dropout, Tensor y) const = 0;

  /// y = x converted to y's dtype (f32, bf16, f16; to nearest even).
  virtual void cast(Stream& stream, ConstTensor x, Tensor y) const = 0;
  /// y += x (dtype T of y; x of the same dtype or f32).
  virtual void add_into(Stream& stream, ConstTensor x, Tensor y) const = 0;
};

}  // namespace neox
