#pragma once
// The scores of causal attention with ALiBi.

#include "kernels/cuda/attention_scores.cuh"

namespace neox::cuda {

struct AlibiScores : CausalScores {
  AlibiBias alibi;
  float slope = 0.0f;  ///< of the head, after of_head()
  static constexpr bool kBiased = true;

  AlibiScores(const AttentionSizes& s, const AlibiBias& a) : CausalScores(s), alibi(a) {}
  NEOX_HOST_DEVICE AlibiScores of_head(int, int head) const {
    AlibiScores scores = *this;
    scores.slope = alibi_slope(alibi, head);
    return scores;
  }
  NEOX_HOST_DEVICE bool biased() const { return true; }
  NEOX_HOST_DEVICE float bias(int query, int key) const {
    return slope * static_cast<float>(key - query - offset());
  }
};

}  // namespace neox::cuda
