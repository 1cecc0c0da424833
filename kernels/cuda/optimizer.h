#pragma once
// The optimizer family on NVIDIA GPUs.

#include "kernels/cuda/family.h"
#include "kernels/cuda/workspace.h"
#include "kernels/optimizer.h"

namespace neox {

class CudaOptimizer : public virtual OptimizerOps, protected CudaFamily {
 public:
  explicit CudaOptimizer(Device device) : CudaFamily(device) {}

  void optimizer_step(Stream&, const UpdateRule&, ConstTensor grad, ConstTensor grad_scale,
                      Tensor main, const UpdateStates& states, Tensor weights) const override;
  void square_sum(Stream&, ConstTensor x, Tensor out, bool accumulate) const override;
  void clip_scale(Stream&, ConstTensor square_sum, float max_norm, float loss_scale,
                  Tensor scale) const override;

 private:
  Workspace workspace_;  // sums of pieces
};

}  // namespace neox
