#pragma once
// The norm family on NVIDIA GPUs.

#include "kernels/cuda/family.h"
#include "kernels/cuda/workspace.h"
#include "kernels/norm.h"

namespace neox {

/// Sums in f32, in an order that depends on shapes and on the GPU's number of multiprocessors only.
class CudaNorm : public virtual NormOps, protected CudaFamily {
 public:
  explicit CudaNorm(Device device) : CudaFamily(device) {}

  void layer_norm(Stream&, ConstTensor x, ConstTensor w, ConstTensor b, float eps, Tensor y,
                  Tensor mean, Tensor rstd) const override;
  void layer_norm_backward(Stream&, ConstTensor dy, ConstTensor x, ConstTensor w, ConstTensor mean,
                           ConstTensor rstd, ConstTensor residual_grad, Tensor dx, Tensor dw,
                           Tensor db, bool accumulate) const override;
  void rms_norm(Stream&, ConstTensor x, ConstTensor w, float eps, Tensor y,
                Tensor rstd) const override;
  void rms_norm_backward(Stream&, ConstTensor dy, ConstTensor x, ConstTensor w, ConstTensor rstd,
                         ConstTensor residual_grad, Tensor dx, Tensor dw,
                         bool accumulate) const override;

 private:
  void forward(Stream&, const char* name, ConstTensor x, ConstTensor w, ConstTensor b, float eps,
               Tensor y, Tensor mean, Tensor rstd) const;
  void backward(Stream&, const char* name, ConstTensor dy, ConstTensor x, ConstTensor w,
                ConstTensor mean, ConstTensor rstd, ConstTensor residual_grad, Tensor dx, Tensor dw,
                Tensor db, bool accumulate) const;

  Workspace workspace_;  // sums of blocks of rows, for dw and db
};

}  // namespace neox
