#include "kernels/cuda/optimizer.h"

#include <cmath>

#include "kernels/cuda/optimizer_kernels.h"

namespace neox {
namespace {

cuda::AdamWStep step_of(const AdamW& hyper, const float* grad_scale) {
  const double b1 = hyper.beta1, b2 = hyper.beta2;
  const auto t = static_cast<double>(hyper.step);
  // -expm1(t log b) is 1 - b^t without cancellation; b = 0 gives 1.
  const double correction1 = -std::expm1(t * std::log(b1));
  const double correction2 = -std::expm1(t * std::log(b2));
  return {.beta1 = hyper.beta1,
          .beta2 = hyper.beta2,
          .rest1 = static_cast<float>(1.0 - b1),
          .rest2 = static_cast<float>(1.0 - b2),
          .step_size = static_cast<float>(hyper.lr / correction1),
          .inverse_root2 = static_cast<float>(1.0 / std::sqrt(correction2)),
          .eps = hyper.eps,
          .decay = static_cast<float>(static_cast<double>(hyper.lr) * hyper.weight_decay),
          .grad_scale = grad_scale};
}

}  // namespace

void CudaOptimizer::adamw(Stream& stream, const AdamW& hyper, ConstTensor grad,
                          ConstTensor grad_scale, Tensor main, Tensor m, Tensor v,
                          Tensor weights) const {
  const bool fits = !weights || weights.dtype == DType::bf16 || weights.dtype == DType::f16;
  if (!fits) {
    fail("internal error: weights in {} need no copy; leave it empty", name_of(weights.dtype));
  }
  run(stream, "adamw", [&](const cuda::Launch& launch) {
    const cuda::AdamWStep step =
        step_of(hyper, static_cast<const float*>(input(grad_scale, DType::f32)));
    cuda::adamw(
        launch, step,
        {static_cast<const float*>(input(grad, DType::f32)),
         static_cast<float*>(output(main, DType::f32)), static_cast<float*>(output(m, DType::f32)),
         static_cast<float*>(output(v, DType::f32)), optional_output(weights, weights.dtype),
         weights.dtype, main.numel()});
  });
}

void CudaOptimizer::square_sum(Stream& stream, ConstTensor x, Tensor out, bool accumulate) const {
  run(stream, "square_sum", [&](const cuda::Launch& launch) {
    void* scratch = workspace_.take(stream, cuda::kMostPartialSums * sizeof(double));
    cuda::square_sum(launch, static_cast<const float*>(input(x, DType::f32)), x.numel(),
                     static_cast<double*>(scratch), static_cast<double*>(output(out, DType::f64)),
                     accumulate);
  });
}

void CudaOptimizer::clip_scale(Stream& stream, ConstTensor square_sum, float max_norm,
                               Tensor scale) const {
  run(stream, "clip_scale", [&](const cuda::Launch& launch) {
    cuda::clip_scale(launch, static_cast<const double*>(input(square_sum, DType::f64)), max_norm,
                     static_cast<float*>(output(scale, DType::f32)));
  });
}

}  // namespace neox
