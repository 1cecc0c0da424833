#pragma once
// The elementwise family on NVIDIA GPUs.

#include "kernels/cuda/family.h"
#include "kernels/elementwise.h"

namespace neox {

/// Sums, dropout and activations are computed in f32 and rounded once. Dropout masks are those of
/// every other backend, bit for bit.
class CudaElementwise : public virtual ElementwiseOps, protected CudaFamily {
 public:
  explicit CudaElementwise(Device device) : CudaFamily(device) {}

  void activation(Stream&, Activation, ConstTensor x, Tensor y) const override;
  void activation_backward(Stream&, Activation, ConstTensor x, ConstTensor dy,
                           Tensor dx) const override;
  void gated_activation(Stream&, Activation, ConstTensor x, Tensor y) const override;
  void gated_activation_backward(Stream&, Activation, ConstTensor x, ConstTensor dy,
                                 Tensor dx) const override;
  void residual_add(Stream&, ConstTensor residual, ConstTensor a, const Dropout& dropout_a,
                    ConstTensor b, const Dropout& dropout_b, Tensor y) const override;
  void dropout(Stream&, ConstTensor x, const Dropout&, Tensor y) const override;
  void cast(Stream&, ConstTensor x, Tensor y) const override;
  void add_into(Stream&, ConstTensor x, Tensor y) const override;
};

}  // namespace neox
