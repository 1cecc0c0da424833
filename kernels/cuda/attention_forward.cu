// The forward kernels of causal attention.

#include "kernels/cuda/attention_forward.cuh"

namespace neox::cuda {

void attention_forward(const Launch& launch, DType dtype, const Attention& a) {
  visit_attention(dtype, a.sizes.head_dim, [&](auto zero, auto width) {
    launch_forward<decltype(zero), width()>(launch, a, CausalScores(a.sizes));
  });
}

}  // namespace neox::cuda
