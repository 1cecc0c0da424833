#include "kernels/cuda/elementwise.h"

#include "kernels/cuda/elementwise_kernels.h"
#include "kernels/cuda/internal.h"

namespace neox {

CudaElementwise::CudaElementwise(Device device) : device_(device) {
  if (device.is_cpu()) return;
  device_runtime(device.kind);  // throws when there is none
  cuda_check(
      cudaDeviceGetAttribute(&multiprocessors_, cudaDevAttrMultiProcessorCount, device.index),
      "cudaDeviceGetAttribute");
}

template <class F>
void CudaElementwise::run(Stream& stream, const char* kernel, F&& f) const {
  require(stream.device() == device_, "{} of {} was given a stream of {}", kernel, name_of(device_),
          name_of(stream.device()));
  if (device_.is_cpu()) {
    f(cuda::Launch{nullptr, multiprocessors_, true});
    return;
  }
  const DeviceGuard guard(device_.index);
  f(cuda::Launch{cuda_stream(stream), multiprocessors_, false});
  cuda_check(cudaGetLastError(), kernel);
}

const void* CudaElementwise::input(ConstTensor tensor, DType want) const {
  require(tensor.device == device_, "memory of {} was given to a kernel of {}",
          name_of(tensor.device), name_of(device_));
  require(tensor.dtype == want, "a {} tensor was given to a kernel where it must be {}",
          name_of(tensor.dtype), name_of(want));
  return tensor.data;
}

void* CudaElementwise::output(Tensor tensor, DType want) const {
  input(tensor, want);
  return tensor.data;
}

void CudaElementwise::activation(Stream& stream, Activation kind, ConstTensor x, Tensor y) const {
  run(stream, "activation", [&](const cuda::Launch& launch) {
    cuda::activation(launch, kind, y.dtype, input(x, y.dtype), output(y, y.dtype), y.numel());
  });
}

void CudaElementwise::activation_backward(Stream& stream, Activation kind, ConstTensor x,
                                          ConstTensor dy, Tensor dx) const {
  const DType t = dx.dtype;
  run(stream, "activation_backward", [&](const cuda::Launch& launch) {
    cuda::activation_backward(launch, kind, t, input(x, t), input(dy, t), output(dx, t),
                              dx.numel());
  });
}

void CudaElementwise::gated_activation(Stream& stream, Activation kind, ConstTensor x,
                                       Tensor y) const {
  const DType t = y.dtype;
  run(stream, "gated_activation", [&](const cuda::Launch& launch) {
    cuda::gated_activation(launch, kind, t, input(x, t), output(y, t), y.rows(), y.cols());
  });
}

void CudaElementwise::gated_activation_backward(Stream& stream, Activation kind, ConstTensor x,
                                                ConstTensor dy, Tensor dx) const {
  const DType t = dx.dtype;
  run(stream, "gated_activation_backward", [&](const cuda::Launch& launch) {
    cuda::gated_activation_backward(launch, kind, t, input(x, t), input(dy, t), output(dx, t),
                                    dy.rows(), dy.cols());
  });
}

void CudaElementwise::residual_add(Stream& stream, ConstTensor residual, ConstTensor a,
                                   const Dropout& dropout_a, ConstTensor b,
                                   const Dropout& dropout_b, Tensor y) const {
  const DType t = y.dtype;
  run(stream, "residual_add", [&](const cuda::Launch& launch) {
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
  run(stream, "dropout", [&](const cuda::Launch& launch) {
    cuda::dropout_sum(
        launch, t, {nullptr, input(x, t), nullptr, dropout, {}, output(y, t), y.rows(), y.cols()});
  });
}

void CudaElementwise::cast(Stream& stream, ConstTensor x, Tensor y) const {
  run(stream, "cast", [&](const cuda::Launch& launch) {
    cuda::cast(launch, x.dtype, input(x, x.dtype), y.dtype, output(y, y.dtype), y.numel());
  });
}

void CudaElementwise::add_into(Stream& stream, ConstTensor x, Tensor y) const {
  const DType x_type = x.dtype == y.dtype ? y.dtype : DType::f32;
  run(stream, "add_into", [&](const cuda::Launch& launch) {
    cuda::add_into(launch, x_type, input(x, x_type), y.dtype, output(y, y.dtype), y.numel());
  });
}

}  // namespace neox
