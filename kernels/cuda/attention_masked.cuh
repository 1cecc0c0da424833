#pragma once
// The scores of causal attention under a mask, with or without ALiBi.

#include "kernels/cuda/attention_scores.cuh"

namespace neox::cuda {

struct MaskedScores : CausalScores {
  MaskView mask;
  AlibiBias alibi;
  int sample = 0, head = 0;  ///< after of_head()
  float slope = 0.0f;
  static constexpr bool kBiased = true, kSkips = true;

  MaskedScores(const AttentionSizes& s, const MaskView& m, const AlibiBias& a)
      : CausalScores(s), mask(m), alibi(a) {}
  NEOX_HOST_DEVICE MaskedScores of_head(int of_sample, int of_head) const {
    MaskedScores scores = *this;
    scores.sample = of_sample;
    scores.head = of_head;
    if (alibi.global_heads > 0) scores.slope = alibi_slope(alibi, of_head);
    return scores;
  }

  NEOX_HOST_DEVICE bool biased() const { return slope != 0.0f; }
  NEOX_HOST_DEVICE float bias(int query, int key) const {
    return slope * static_cast<float>(key - query - offset());
  }
  NEOX_HOST_DEVICE bool visible(int query, int key) const {
    return CausalScores::visible(query, key) && key >= first_key(query) &&
           mask.keeps(head, there_is(query), key);
  }
  NEOX_HOST_DEVICE bool all_visible(int first_query, int last_query, int first, int last) const {
    return CausalScores::all_visible(first_query, last_query, first, last) &&
           first >= first_key(last_query) &&
           mask.keeps_all(head, there_is(first_query), there_is(last_query), first, last);
  }
  NEOX_HOST_DEVICE bool any_visible(int first_query, int last_query, int first, int last) const {
    return mask.keeps_any(head, first_query, last_query, first, last);
  }
  NEOX_HOST_DEVICE int first_key(int query) const {
    return mask.has_first_keys() ? mask.first_key(sample, there_is(query)) : 0;
  }
  NEOX_HOST_DEVICE int end_query(int last_key) const { return mask.end_query(sample, last_key); }

 private:
  NEOX_HOST_DEVICE int there_is(int query) const {
    return query < query_length ? query : query_length - 1;
  }
};

}  // namespace neox::cuda
