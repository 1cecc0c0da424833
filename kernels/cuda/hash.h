#pragma once
// Content hashes on NVIDIA GPUs.

#include "kernels/cuda/family.h"
#include "kernels/cuda/workspace.h"
#include "kernels/hash.h"

namespace neox {

/// The same hashes as every other backend's.
class CudaHash : public virtual HashOps, protected CudaFamily {
 public:
  explicit CudaHash(Device device) : CudaFamily(device) {}

  void hash(Stream&, ConstTensor x, Tensor out, bool accumulate) const override;

 private:
  Workspace workspace_;  // sums of pieces
};

}  // namespace neox
