#include "kernels/cuda/loss.h"

#include "kernels/cuda/loss_kernels.h"

namespace neox {
namespace {

bool is_half(DType t) {
  return t == DType::bf16 || t == DType::f16;
}

/// dlogits' dtype; that of the logits when there are none.
DType gradient_type(ConstTensor logits, Tensor dlogits) {
  if (!dlogits) return logits.dtype;
  const DType have = logits.dtype, want = dlogits.dtype;
  const bool fits = have == want || (have == DType::f32 && is_half(want)) ||
                    (want == DType::f32 && is_half(have));
  if (!fits) {
    fail("internal error: gradients in {} of logits in {}; one of the two must be f32",
         name_of(want), name_of(have));
  }
  return want;
}

}  // namespace

cuda::Logits CudaLoss::columns_of(ConstTensor logits, ConstTensor labels, ConstTensor weights,
                                  std::int64_t first, std::int64_t valid) const {
  return {logits.dtype,
          input(logits, logits.dtype),
          weights.numel(),
          logits.cols(),
          first,
          valid,
          static_cast<const std::int32_t*>(input(labels, DType::i32)),
          static_cast<const float*>(input(weights, DType::f32))};
}

void CudaLoss::cross_entropy(Stream& stream, ConstTensor logits, ConstTensor labels,
                             ConstTensor weights, std::int64_t valid_vocab, Tensor losses,
                             Tensor dlogits) const {
  const cuda::Logits of = columns_of(logits, labels, weights, 0, valid_vocab);
  const DType gradient = gradient_type(logits, dlogits);
  run(stream, "cross_entropy", [=, this](const cuda::Launch& launch) {
    cuda::losses_and_gradients(launch, of, nullptr, 0,
                               static_cast<float*>(output(losses, DType::f32)), gradient,
                               optional_output(dlogits, gradient));
  });
}

void CudaLoss::cross_entropy_partial(Stream& stream, ConstTensor logits, ConstTensor labels,
                                     ConstTensor weights, std::int64_t first_column,
                                     std::int64_t valid_columns, Tensor stats) const {
  const cuda::Logits of = columns_of(logits, labels, weights, first_column, valid_columns);
  run(stream, "cross_entropy_partial", [=, this](const cuda::Launch& launch) {
    cuda::loss_stats(launch, of, static_cast<double*>(output(stats, DType::f64)));
  });
}

void CudaLoss::cross_entropy_combine(Stream& stream, ConstTensor logits, ConstTensor labels,
                                     ConstTensor weights, std::int64_t first_column,
                                     std::int64_t valid_columns, ConstTensor parts, Tensor losses,
                                     Tensor dlogits) const {
  const cuda::Logits of = columns_of(logits, labels, weights, first_column, valid_columns);
  const DType gradient = gradient_type(logits, dlogits);
  run(stream, "cross_entropy_combine", [=, this](const cuda::Launch& launch) {
    cuda::losses_and_gradients(launch, of, static_cast<const double*>(input(parts, DType::f64)),
                               parts.shape[0], static_cast<float*>(output(losses, DType::f32)),
                               gradient, optional_output(dlogits, gradient));
  });
}

}  // namespace neox
