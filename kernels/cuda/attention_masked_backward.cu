// Causal attention under a mask, backward.

#include "kernels/cuda/attention_backward.cuh"
#include "kernels/cuda/attention_masked.cuh"

namespace neox::cuda {

void attention_backward_masked(const Launch& launch, DType dtype, const AttentionGradient& a) {
  visit_attention(dtype, a.sizes.head_dim, [&](auto zero, auto width) {
    launch_backward<decltype(zero), width()>(launch, a, MaskedScores(a.sizes, a.mask, a.alibi));
  });
}

}  // namespace neox::cuda
