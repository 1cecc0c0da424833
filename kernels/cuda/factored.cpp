#include "kernels/cuda/factored.h"

#include "kernels/cuda/factored_kernels.h"

namespace neox {

void CudaFactored::sm3_maxima(Stream& stream, const Sm3& rule, const MatrixPart& part,
                              ConstTensor grad, ConstTensor grad_scale, ConstTensor rows,
                              ConstTensor columns, Tensor new_rows, Tensor new_columns) const {
  const std::int64_t elements = columns ? cuda::sm3_scratch_elements(part, grad.numel()) : 0;
  void* scratch = nullptr;
  if (elements > 0) {
    scratch = workspace_.take(stream, static_cast<std::size_t>(elements) * sizeof(float));
  }
  run(stream, "sm3_maxima", [=, this](const cuda::Launch& launch) {
    cuda::sm3_maxima(launch, rule,
                     {part, grad.numel(), static_cast<const float*>(input(grad, DType::f32)),
                      static_cast<const float*>(input(grad_scale, DType::f32)),
                      static_cast<const float*>(input(rows, DType::f32)),
                      static_cast<const float*>(optional_input(columns, DType::f32))},
                     static_cast<float*>(scratch),
                     static_cast<float*>(output(new_rows, DType::f32)),
                     static_cast<float*>(optional_output(new_columns, DType::f32)));
  });
}

void CudaFactored::sm3_step(Stream& stream, const Sm3& rule, const MatrixPart& part,
                            ConstTensor grad, ConstTensor grad_scale, ConstTensor rows,
                            ConstTensor columns, Tensor main, Tensor momentum,
                            Tensor weights) const {
  const bool fits = !weights || weights.dtype == DType::bf16 || weights.dtype == DType::f16;
  if (!fits) {
    fail("internal error: weights in {} need no copy; leave it empty", name_of(weights.dtype));
  }
  run(stream, "sm3_step", [=, this](const cuda::Launch& launch) {
    cuda::sm3_step(launch, rule,
                   {part, grad.numel(), static_cast<const float*>(input(grad, DType::f32)),
                    static_cast<const float*>(input(grad_scale, DType::f32)),
                    static_cast<const float*>(input(rows, DType::f32)),
                    static_cast<const float*>(optional_input(columns, DType::f32))},
                   {static_cast<float*>(output(main, DType::f32)),
                    static_cast<float*>(optional_output(momentum, DType::f32)),
                    optional_output(weights, weights.dtype), weights.dtype});
  });
}

}  // namespace neox
