#pragma once
// The elementwise family on NVIDIA GPUs.

#include "kernels/elementwise.h"

namespace neox {

/// Sums, dropout and activations are computed in f32 and rounded once. Dropout masks are those of
/// every other backend, bit for bit.
class CudaElementwise final : public ElementwiseOps {
 public:
  /// For a CUDA device: its runtime must be registered. For the CPU: the kernels' own code runs on
  /// the host, one GPU thread after the other; slow, but it tests them where there is no GPU.
  explicit CudaElementwise(Device device);

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

 private:
  /// Calls f(launch), with the device current, and checks that the kernel started.
  template <class F>
  void run(Stream& stream, const char* kernel, F&& f) const;
  /// The memory of a tensor that must be of this dtype and on this device.
  const void* input(ConstTensor tensor, DType want) const;
  void* output(Tensor tensor, DType want) const;

  Device device_;
  int multiprocessors_ = 2;  // on the host: enough for grids of several blocks
};

}  // namespace neox
