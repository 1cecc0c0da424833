// Causal attention with ALiBi, forward.

#include "kernels/cuda/attention_alibi.cuh"
#include "kernels/cuda/attention_forward.cuh"

namespace neox::cuda {

void attention_forward_alibi(const Launch& launch, DType dtype, const Attention& a) {
  visit_attention(dtype, a.sizes.head_dim, [&](auto zero, auto width) {
    launch_forward<decltype(zero), width()>(launch, a, AlibiScores(a.sizes, a.alibi));
  });
}

}  // namespace neox::cuda
