#include "kernels/cuda/family.h"

#include "core/base/error.h"
#include "kernels/cuda/internal.h"
#include "kernels/cuda/simulated_runtime.h"

namespace neox {

CudaFamily::CudaFamily(Device device) : device_(device) {
  device_runtime(device.kind);  // throws when there is none
  require(!device.is_cpu(), "internal error: CUDA kernels were asked for on the CPU");
  if (device.kind == DeviceKind::simulated) return;
  cuda_check(
      cudaDeviceGetAttribute(&multiprocessors_, cudaDevAttrMultiProcessorCount, device.index),
      "cudaDeviceGetAttribute");
}

bool CudaFamily::recording(Stream& stream) const {
  return device_.kind == DeviceKind::simulated && recording_simulated(stream);
}

void CudaFamily::record(Stream& stream, std::function<void(const cuda::Launch&)> start) const {
  record_simulated(
      stream, [start = std::move(start), launch = cuda::Launch{nullptr, multiprocessors_, true}] {
        start(launch);
      });
}

void CudaFamily::run(Stream& stream, const char* kernel, void (*start)(void*, const cuda::Launch&),
                     void* context) const {
  if (stream.device() != device_) {
    fail("internal error: {} of {} was given a stream of {}", kernel, name_of(device_),
         name_of(stream.device()));
  }
  if (device_.kind == DeviceKind::simulated) {
    start(context, {nullptr, multiprocessors_, true});
    return;
  }
  const DeviceGuard guard(device_.index);
  start(context, {cuda_stream(stream), multiprocessors_, false});
  cuda_check(cudaGetLastError(), kernel);
}

const void* CudaFamily::input(ConstTensor tensor, DType want) const {
  if (tensor.device != device_) {
    fail("internal error: memory of {} was given to a kernel of {}", name_of(tensor.device),
         name_of(device_));
  }
  if (tensor.dtype != want) {
    fail("internal error: a {} tensor was given to a kernel where it must be {}",
         name_of(tensor.dtype), name_of(want));
  }
  return tensor.data;
}

void* CudaFamily::output(Tensor tensor, DType want) const {
  input(tensor, want);
  return tensor.data;
}

}  // namespace neox
