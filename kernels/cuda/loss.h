#pragma once
// The loss family on NVIDIA GPUs.

#include "kernels/cuda/family.h"
#include "kernels/loss.h"

namespace neox {
namespace cuda {
struct Logits;
}

/// Exponentials in f32, sums of a row in f64 over the threads of a block.
class CudaLoss : public virtual LossOps, protected CudaFamily {
 public:
  explicit CudaLoss(Device device) : CudaFamily(device) {}

  void cross_entropy(Stream&, ConstTensor logits, ConstTensor labels, ConstTensor weights,
                     std::int64_t valid_vocab, Tensor losses, Tensor dlogits) const override;
  void cross_entropy_partial(Stream&, ConstTensor logits, ConstTensor labels, ConstTensor weights,
                             std::int64_t first_column, std::int64_t valid_columns,
                             Tensor stats) const override;
  void cross_entropy_combine(Stream&, ConstTensor logits, ConstTensor labels, ConstTensor weights,
                             std::int64_t first_column, std::int64_t valid_columns,
                             ConstTensor parts, Tensor losses, Tensor dlogits) const override;

 private:
  /// Columns [first, ...) of the vocabulary, `valid` of them no padding.
  cuda::Logits columns_of(ConstTensor logits, ConstTensor labels, ConstTensor weights,
                          std::int64_t first, std::int64_t valid) const;
};

}  // namespace neox
