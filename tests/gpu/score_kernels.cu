#include "kernels/cuda/attention_backward.cuh"
#include "kernels/cuda/attention_forward.cuh"
#include "tests/gpu/score_kernels.h"

namespace neox::testing {
namespace {

struct WindowScores : cuda::CausalScores {
  int window;
  float slope;
  static constexpr bool kBiased = true;

  WindowScores(const cuda::AttentionSizes& sizes, Window w)
      : CausalScores(sizes), window(w.keys), slope(w.slope) {}
  NEOX_HOST_DEVICE WindowScores of_head(int, int head) const {
    WindowScores scores = *this;
    scores.slope = slope * static_cast<float>(head + 1);
    return scores;
  }
  NEOX_HOST_DEVICE int distance(int query, int key) const { return query + offset() - key; }
  NEOX_HOST_DEVICE float bias(int query, int key) const {
    return -slope * static_cast<float>(distance(query, key));
  }
  NEOX_HOST_DEVICE bool visible(int query, int key) const {
    return distance(query, key) >= 0 && distance(query, key) < window;
  }
  NEOX_HOST_DEVICE bool all_visible(int first_query, int last_query, int first_key,
                                    int last_key) const {
    return distance(first_query, last_key) >= 0 && distance(last_query, first_key) < window;
  }
  NEOX_HOST_DEVICE int first_key(int first_query) const {
    const int first = first_query + offset() - window + 1;
    return first > 0 ? first : 0;
  }
  NEOX_HOST_DEVICE int end_query(int last_key) const {
    return cuda::min_of(query_length, last_key - offset() + window);
  }
};

}  // namespace

void window_attention(const cuda::Launch& launch, const cuda::Attention& a, Window w) {
  cuda::launch_forward<float, 32>(launch, a, WindowScores(a.sizes, w));
}
void window_attention_backward(const cuda::Launch& launch, const cuda::AttentionGradient& a,
                               Window w) {
  cuda::launch_backward<float, 32>(launch, a, WindowScores(a.sizes, w));
}

}  // namespace neox::testing
