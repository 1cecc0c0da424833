#pragma once
// The attention family on NVIDIA GPUs.

#include "kernels/attention.h"
#include "kernels/cuda/family.h"

namespace neox {

/// Our own kernels, for any GPU: flash attention on tensor cores for heads of up to 256 channels.
/// f32 products are as exact as f32 (six bf16 products each). Backward writes every element once,
/// without atomic sums: the same bits in every run. Dropout masks are those of every other backend,
/// bit for bit; keys that rotary or attention read through `positions` are trusted.
class CudaAttention : public virtual AttentionOps, protected CudaFamily {
 public:
  explicit CudaAttention(Device device) : CudaFamily(device) {}

  void attention(Stream&, const AttentionProblem& problem, ConstHeads q, ConstHeads k, ConstHeads v,
                 Tensor out, Tensor lse) const override;
  std::size_t attention_backward_workspace(const AttentionProblem& problem,
                                           DType dtype) const override;
  void attention_backward(Stream&, const AttentionProblem& problem, ConstHeads q, ConstHeads k,
                          ConstHeads v, ConstTensor out, ConstTensor lse, ConstTensor dout,
                          Heads dq, Heads dk, Heads dv, Tensor workspace) const override;
  void rotary(Stream&, Heads x, std::int64_t batch, std::int64_t seq, std::int64_t heads,
              ConstTensor positions, ConstTensor cos_table, ConstTensor sin_table,
              bool inverse) const override;
  void copy_heads(Stream&, ConstHeads from, Heads to, std::int64_t batch, std::int64_t seq,
                  std::int64_t heads, std::int64_t head_dim) const override;

 private:
  /// Throws Error unless the memory is this device's and of this dtype.
  void check(const ConstHeads& heads, DType want) const;
  MaskView mask_of(const AttentionProblem& problem) const;
};

}  // namespace neox
