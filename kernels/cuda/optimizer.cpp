#include "kernels/cuda/optimizer.h"

#include "kernels/cuda/optimizer_kernels.h"

namespace neox {

void CudaOptimizer::optimizer_step(Stream& stream, const UpdateRule& rule, ConstTensor grad,
                                   ConstTensor grad_scale, Tensor main, const UpdateStates& states,
                                   Tensor weights) const {
  const bool fits = !weights || weights.dtype == DType::bf16 || weights.dtype == DType::f16;
  if (!fits) {
    fail("internal error: weights in {} need no copy; leave it empty", name_of(weights.dtype));
  }
  run(stream, "optimizer_step", [=, this](const cuda::Launch& launch) {
    cuda::StepArrays arrays{static_cast<const float*>(input(grad, DType::f32)),
                            static_cast<const float*>(input(grad_scale, DType::f32)),
                            static_cast<float*>(output(main, DType::f32)),
                            {},
                            optional_output(weights, weights.dtype),
                            weights.dtype,
                            main.numel()};
    for (std::size_t i = 0; i < kMostStates; ++i) {
      arrays.states[i] = static_cast<float*>(optional_output(states[i], DType::f32));
    }
    cuda::optimizer_step(launch, rule, arrays);
  });
}

void CudaOptimizer::square_sum(Stream& stream, ConstTensor x, Tensor out, bool accumulate) const {
  void* scratch = workspace_.take(stream, cuda::kMostPartialSums * sizeof(double));
  run(stream, "square_sum", [=, this](const cuda::Launch& launch) {
    cuda::square_sum(launch, static_cast<const float*>(input(x, DType::f32)), x.numel(),
                     static_cast<double*>(scratch), static_cast<double*>(output(out, DType::f64)),
                     accumulate);
  });
}

void CudaOptimizer::clip_scale(Stream& stream, ConstTensor square_sum, float max_norm,
                               float loss_scale, Tensor scale) const {
  run(stream, "clip_scale", [=, this](const cuda::Launch& launch) {
    cuda::clip_scale(launch, static_cast<const double*>(input(square_sum, DType::f64)), max_norm,
                     loss_scale, static_cast<float*>(output(scale, DType::f32)));
  });
}

}  // namespace neox
