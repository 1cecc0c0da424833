#pragma once
// Causal attention in blocks with online softmax, and rotary position embedding.

#include "core/base/rng.h"
#include "core/tensor/tensor.h"
#include "kernels/alibi.h"
#include "kernels/attention_mask.h"
#include "kernels/dropout.h"

namespace neox {

/// Heads inside a larger tensor, so that fused projections and caches need no copies: element
/// (sample b, position s, head a, channel d) is at data[b*batch_stride + s*row_stride +
/// a*head_stride + d]. Strides count elements.
template <bool Const>
struct BasicHeads {
  typename BasicTensor<Const>::Byte* data = nullptr;
  DType dtype = DType::f32;
  Device device{};
  std::int64_t batch_stride = 0;
  std::int64_t row_stride = 0;
  std::int64_t head_stride = 0;

  BasicHeads() = default;
  /// Heads that start `offset` elements into each row of `t` [batch*seq, width].
  BasicHeads(BasicTensor<Const> t, std::int64_t seq, std::int64_t offset, std::int64_t head_step)
      : data(t.data == nullptr ? nullptr
                               : t.data + static_cast<std::size_t>(offset) * size_of(t.dtype)),
        dtype(t.dtype),
        device(t.device),
        batch_stride(seq * t.cols()),
        row_stride(t.cols()),
        head_stride(head_step) {}
  template <bool C2>
  requires(Const && !C2) BasicHeads(const BasicHeads<C2>& o)  // NOLINT: implicit on purpose
      : data(o.data),
        dtype(o.dtype),
        device(o.device),
        batch_stride(o.batch_stride),
        row_stride(o.row_stride),
        head_stride(o.head_stride) {}
};
using Heads = BasicHeads<false>;
using ConstHeads = BasicHeads<true>;

/// Dropout on attention probabilities; the draw's index is
/// ((sample * global_heads + head) * query_length + i) * key_length + j with global sample and
/// head.
struct AttentionDropout {
  float p = 0.0f;
  RngKey key{};
  std::int64_t first_sample = 0;
  std::int64_t first_head = 0;
  std::int64_t global_heads = 1;
  const DropoutPosition* position = nullptr;  ///< as of Dropout
};

struct AttentionProblem {
  std::int64_t batch = 0;
  std::int64_t query_length = 0;
  std::int64_t key_length =
      0;  ///< >= query_length; query i sees keys j <= i + key_length - query_length
  std::int64_t heads = 0;
  std::int64_t kv_heads = 0;  ///< divides heads; head a reads K/V head a / (heads/kv_heads)
  std::int64_t head_dim = 0;
  float scale = 1.0f;  ///< multiplies q.k, usually 1/sqrt(head_dim)
  AttentionDropout dropout{};
  AlibiBias alibi{};
  AttentionMask mask{};
};

class AttentionOps {
 public:
  virtual ~AttentionOps() = default;

  /// out [batch, query_length, heads*head_dim]: T; lse [batch, heads, query_length]: f32, the log
  /// of the softmax denominator, for backward. Scores and softmax in f32; never an s x s matrix in
  /// memory.
  virtual void attention(Stream& stream, const AttentionProblem& problem, ConstHeads q,
                         ConstHeads k, ConstHeads v, Tensor out, Tensor lse) const = 0;

  /// Bytes of workspace that attention_backward needs.
  virtual std::size_t attention_backward_workspace(const AttentionProblem& problem,
                                                   DType dtype) const = 0;
  /// Overwrites dq, dk, dv. `workspace`: u8 [attention_backward_workspace()].
  virtual void attention_backward(Stream& stream, const AttentionProblem& problem, ConstHeads q,
                                  ConstHeads k, ConstHeads v, ConstTensor out, ConstTensor lse,
                                  ConstTensor dout, Heads dq, Heads dk, Heads dv,
                                  Tensor workspace) const = 0;

  /// In place on the first 2*half channels of each of `heads` heads, half-split pairs (c, c +
  /// half): x'_c = x_c cos - x_{c+half} sin, x'_{c+half} = x_{c+half} cos + x_c sin, with cos/sin
  /// f32 tables [max_position, half] at row positions[b*seq + s] (i32 [batch*seq]). `inverse`
  /// rotates back, which is the backward.
  virtual void rotary(Stream& stream, Heads x, std::int64_t batch, std::int64_t seq,
                      std::int64_t heads, ConstTensor positions, ConstTensor cos_table,
                      ConstTensor sin_table, bool inverse) const = 0;

  /// to = from for batch x seq x heads x head_dim elements of one dtype: appends to a KV cache.
  virtual void copy_heads(Stream& stream, ConstHeads from, Heads to, std::int64_t batch,
                          std::int64_t seq, std::int64_t heads, std::int64_t head_dim) const = 0;
};

}  // namespace neox
