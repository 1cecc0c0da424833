// The backward kernels of causal attention.

#include "kernels/cuda/attention_backward.cuh"

namespace neox::cuda {

void attention_backward(const Launch& launch, DType dtype, const AttentionGradient& a) {
  visit_attention(dtype, a.sizes.head_dim, [&](auto zero, auto width) {
    launch_backward<decltype(zero), width()>(launch, a, CausalScores(a.sizes));
  });
}

}  // namespace neox::cuda
