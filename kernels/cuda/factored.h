#pragma once
// Optimizers with numbers for rows and columns, on NVIDIA GPUs.

#include "kernels/cuda/family.h"
#include "kernels/cuda/workspace.h"
#include "kernels/factored.h"

namespace neox {

class CudaFactored : public virtual FactoredOps, protected CudaFamily {
 public:
  explicit CudaFactored(Device device) : CudaFamily(device) {}

  void sm3_maxima(Stream&, const Sm3&, const MatrixPart&, ConstTensor grad, ConstTensor grad_scale,
                  ConstTensor rows, ConstTensor columns, Tensor new_rows,
                  Tensor new_columns) const override;
  void sm3_step(Stream&, const Sm3&, const MatrixPart&, ConstTensor grad, ConstTensor grad_scale,
                ConstTensor rows, ConstTensor columns, Tensor main, Tensor momentum,
                Tensor weights) const override;

 private:
  Workspace workspace_;  // maxima of pieces of columns
};

}  // namespace neox
