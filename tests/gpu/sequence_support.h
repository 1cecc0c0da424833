#pragma once
// The embedding and attention families of the CUDA backend, for the operator harness.

#include "kernels/cuda/attention.h"
#include "kernels/cuda/embedding.h"
#include "tests/gpu/gpu_support.h"

namespace neox::testing {

/// Computes these families and nothing else (results of other operators stay unwritten, which the
/// harness reports).
class SequenceFamilies final : public DryRunBackend {
 public:
  SequenceFamilies(Device device, const Backend& cpu)
      : DryRunBackend(device, cpu), embedding_(device), attention_(device) {}
  std::string_view name() const override { return "cuda embedding and attention"; }

  void embedding(Stream& s, ConstTensor ids, ConstTensor table, std::int64_t first_id,
                 ConstTensor positions, ConstTensor position_table, Tensor y) const override {
    embedding_.embedding(s, ids, table, first_id, positions, position_table, y);
  }
  void embedding_backward(Stream& s, ConstTensor ids, ConstTensor dy, std::int64_t first_id,
                          Tensor dtable) const override {
    embedding_.embedding_backward(s, ids, dy, first_id, dtable);
  }

  void attention(Stream& s, const AttentionProblem& p, ConstHeads q, ConstHeads k, ConstHeads v,
                 Tensor out, Tensor lse) const override {
    attention_.attention(s, p, q, k, v, out, lse);
  }
  std::size_t attention_backward_workspace(const AttentionProblem& p, DType dtype) const override {
    return attention_.attention_backward_workspace(p, dtype);
  }
  void attention_backward(Stream& s, const AttentionProblem& p, ConstHeads q, ConstHeads k,
                          ConstHeads v, ConstTensor out, ConstTensor lse, ConstTensor dout,
                          Heads dq, Heads dk, Heads dv, Tensor workspace) const override {
    attention_.attention_backward(s, p, q, k, v, out, lse, dout, dq, dk, dv, workspace);
  }
  void rotary(Stream& s, Heads x, std::int64_t batch, std::int64_t seq, std::int64_t heads,
              ConstTensor positions, ConstTensor cos_table, ConstTensor sin_table,
              bool inverse) const override {
    attention_.rotary(s, x, batch, seq, heads, positions, cos_table, sin_table, inverse);
  }
  void copy_heads(Stream& s, ConstHeads from, Heads to, std::int64_t batch, std::int64_t seq,
                  std::int64_t heads, std::int64_t head_dim) const override {
    attention_.copy_heads(s, from, to, batch, seq, heads, head_dim);
  }

 private:
  CudaEmbedding embedding_;
  CudaAttention attention_;
};

/// On kGpu or kSimulated.
const Backend& sequence_kernels_on(Device device);

}  // namespace neox::testing
