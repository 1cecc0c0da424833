#pragma once
// The attention kernels with other scores than causal ones. Plain types only.

#include "kernels/cuda/attention_kernels.h"

namespace neox::testing {

/// Each query sees the newest `keys` of the causal keys, less slope * (head + 1) for each position
/// in between (a sliding window with ALiBi).
struct Window {
  int keys;
  float slope;
};

/// f32, heads of up to 32 channels.
void window_attention(const cuda::Launch&, const cuda::Attention&, Window);
void window_attention_backward(const cuda::Launch&, const cuda::AttentionGradient&, Window);

}  // namespace neox::testing
