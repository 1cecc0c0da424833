// Causal attention under a mask, forward.

#include "kernels/cuda/attention_forward.cuh"
#include "kernels/cuda/attention_masked.cuh"

namespace neox::cuda {

void attention_forward_masked(const Launch& launch, DType dtype, const Attention& a) {
  visit_attention(dtype, a.sizes.head_dim, [&](auto zero, auto width) {
    launch_forward<decltype(zero), width()>(launch, a, MaskedScores(a.sizes, a.mask, a.alibi));
  });
}

}  // namespace neox::cuda
