#pragma once
// What kernels/cuda/attention.cpp asks of the .cu files of its family. Plain types only (see
// docs/DECISIONS.md 13). Sizes may be 0. The caller checks cudaGetLastError().

#include <cstdint>

#include "core/base/dtype.h"
#include "core/base/rng.h"
#include "kernels/alibi.h"
#include "kernels/cuda/kernel_launch.h"
#include "kernels/dropout.h"
#include "kernels/mask_view.h"

namespace neox::cuda {

/// Heads of kernels/attention.h: element (sample b, position s, head a, channel d) is at
/// data[b*batch_stride + s*row_stride + a*head_stride + d].
template <class Memory>
struct HeadsAt {
  Memory* data;
  std::int64_t batch_stride, row_stride, head_stride;
};

/// AttentionOps::rotary.
struct Rotary {
  HeadsAt<void> x;
  std::int64_t batch, seq, heads, half;
  const std::int32_t* positions;
  const float *cosines, *sines;
  bool inverse;
};
void rotary(const Launch&, DType, const Rotary&);

/// AttentionOps::copy_heads.
struct CopyHeads {
  HeadsAt<const void> from;
  HeadsAt<void> to;
  std::int64_t batch, seq, heads, head_dim;
};
void copy_heads(const Launch&, DType, const CopyHeads&);

/// AttentionProblem of kernels/attention.h; lengths fit 31 bits.
struct AttentionSizes {
  int batch, query_length, key_length, heads, kv_heads, head_dim;
  float scale;
};
/// AttentionDropout.
struct ProbabilityDropout {
  float p;
  RngKey key;
  std::int64_t first_sample, first_head, global_heads;
  const DropoutPosition* position = nullptr;
};

/// The widest head of the kernels below.
inline constexpr int kMaxHeadDim = 256;

/// AttentionOps::attention; lse may be null. kv_heads divides heads, key_length >= query_length.
struct Attention {
  AttentionSizes sizes;
  ProbabilityDropout dropout;
  HeadsAt<const void> q, k, v;
  HeadsAt<void> out;
  float* lse;  ///< [batch, heads, query_length]
  AlibiBias alibi{};
  MaskView mask{};
};
void attention_forward(const Launch&, DType, const Attention&);
/// The same with `alibi`, which attention_forward() does not look at.
void attention_forward_alibi(const Launch&, DType, const Attention&);
/// The same with `alibi` and `mask`.
void attention_forward_masked(const Launch&, DType, const Attention&);

/// AttentionOps::attention_backward.
struct AttentionGradient {
  AttentionSizes sizes;
  ProbabilityDropout dropout;
  HeadsAt<const void> q, k, v, out, dout;
  const float* lse;
  float* delta;  ///< workspace [batch, heads, query_length]: rowsum(dout out)
  HeadsAt<void> dq, dk, dv;
  AlibiBias alibi{};
  MaskView mask{};
};
void attention_backward(const Launch&, DType, const AttentionGradient&);
void attention_backward_alibi(const Launch&, DType, const AttentionGradient&);
void attention_backward_masked(const Launch&, DType, const AttentionGradient&);

}  // namespace neox::cuda
