// Causal attention with ALiBi, backward.

#include "kernels/cuda/attention_alibi.cuh"
#include "kernels/cuda/attention_backward.cuh"

namespace neox::cuda {

void attention_backward_alibi(const Launch& launch, DType dtype, const AttentionGradient& a) {
  visit_attention(dtype, a.sizes.head_dim, [&](auto zero, auto width) {
    launch_backward<decltype(zero), width()>(launch, a, AlibiScores(a.sizes, a.alibi));
  });
}

}  // namespace neox::cuda
