#pragma once
// The embedding family on NVIDIA GPUs.

#include "core/tensor/buffer.h"
#include "kernels/cuda/family.h"
#include "kernels/embedding.h"

namespace neox {

/// Backward sorts the ids and sums the rows of each in row order, as the CPU engine does: the same
/// bits in every run. Calls on one object are queued on one stream at a time, because they share a
/// workspace.
class CudaEmbedding : public virtual EmbeddingOps, protected CudaFamily {
 public:
  explicit CudaEmbedding(Device device) : CudaFamily(device) {}

  void embedding(Stream&, ConstTensor ids, ConstTensor table, std::int64_t first_id,
                 ConstTensor positions, ConstTensor position_table, Tensor y) const override;
  void embedding_backward(Stream&, ConstTensor ids, ConstTensor dy, std::int64_t first_id,
                          Tensor dtable) const override;

 private:
  /// Makes room to sort `rows` ids.
  void reserve(const cuda::Launch& launch, std::int64_t rows) const;

  // Grows with the longest batch so far: the steady state allocates nothing.
  mutable std::int64_t reserved_rows_ = 0;
  mutable std::size_t sort_bytes_ = 0;
  mutable Buffer workspace_;  // keys, order, both sorted: u32 [reserved_rows_]; memory of the sort
};

}  // namespace neox
