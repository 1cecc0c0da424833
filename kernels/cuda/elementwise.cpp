#include "kernels/cuda/elementwise.h"

#include "kernels/cuda/elementwise_kernels.h"

namespace neox {

void CudaElementwise::activation(Stream& stream, Activation kind, ConstTensor x, Tensor y) const {
  run(stream, "activation", [=, this](const cuda::Launch& launch) {
    cuda::activation(launch, kind, y.dtype, input(x, y.dtype), output(y, y.dtype), y.numel());
  });
}

void CudaElementwise::activation_backward(Stream& stream, Activation kind, ConstTensor x,
                                          ConstTensor dy, Tensor dx) const {
  const DType t = dx.dtype;
  run(stream, "activation_backward", [=, this](const cuda::Launch& launch) {
    cuda::activation_backward(launch, kind, t, input(x, t), input(dy, t), output(dx, t),
                              dx.numel());
  });
}

void CudaElementwise::gated_activation(Stream& stream, Activation kind, ConstTensor x,
                                       Tensor y) const {
  const DType t = y.dtype;
  run(stream, "gated_activation", [=, this](const cuda::Launch& launch) {
    cuda::gated_activation(launch, kind, t, input(x, t), output(y, t), y.rows(), y.cols());
  });
}

void CudaElementwise::gated_activation_backward(Stream& stream, Activation kind, ConstTensor x,
                                                ConstTensor dy, Tensor dx) const {
  const DType t = dx.dtype;
  run(stream, "gated_activation_backward", [=, this](const cuda::Launch& launch) {
    cuda::gated_activation_backward(launch, kind, t, input(x, t), input(dy, t), output(dx, t),
                                    dy.rows(), dy.cols());
  });
}

void CudaElementwise::residual_add(Stream& stream, ConstTensor residual, ConstTensor a,
                                   const Dropout& dropout_a, ConstTensor b,
                                   const Dropout& dropout_b, Tensor y) const {
  const DType t = y.dtype;
  run(stream, "residual_add", [=, this](const cuda::Launch& launch) {
    cuda::dropout_sum(
        launch, t,
        {residual ? input(residual, t) : nullptr, input(a, t), b ? input(b, t) : nullptr, dropout_a,
         dropout_b, output(y, t), y.rows(), y.cols()});
  });
}

void CudaElementwise::dropout(Stream& stream, ConstTensor x, const Dropout& dropout,
                              Tensor y) const {
  if (dropout.p <= 0.0f) {
    if (y.data != x.data) copy(stream, x, y);
    return;
  }
  const DType t = y.dtype;
  run(stream, "dropout", [=, this](const cuda::Launch& launch) {
    cuda::dropout_sum(
        launch, t, {nullptr, input(x, t), nullptr, dropout, {}, output(y, t), y.rows(), y.cols()});
  });
}

void CudaElementwise::cast(Stream& stream, ConstTensor x, Tensor y) const {
  run(stream, "cast", [=, this](const cuda::Launch& launch) {
    cuda::cast(launch, x.dtype, input(x, x.dtype), y.dtype, output(y, y.dtype), y.numel());
  });
}

void CudaElementwise::add_into(Stream& stream, ConstTensor x, Tensor y) const {
  const DType x_type = x.dtype == y.dtype ? y.dtype : DType::f32;
  run(stream, "add_into", [=, this](const cuda::Launch& launch) {
    cuda::add_into(launch, x_type, input(x, x_type), y.dtype, output(y, y.dtype), y.numel());
  });
}

}  // namespace neox
