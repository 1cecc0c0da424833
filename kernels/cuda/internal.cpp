#include "kernels/cuda/internal.h"

#include "core/base/error.h"

namespace neox {

void cuda_check(cudaError_t code, std::string_view call, std::source_location where) {
  if (code == cudaSuccess) [[likely]]
    return;
  cudaGetLastError();  // forget it, or the next launch would be blamed for it
  throw Error(fmt::format("CUDA call {} failed with {} ({}): {}", call, cudaGetErrorName(code),
                          static_cast<int>(code), cudaGetErrorString(code)),
              where);
}

cudaStream_t cuda_stream(const Stream& stream) {
  require(stream.device().kind == DeviceKind::cuda,
          "work for a CUDA device was given to a stream of {}", name_of(stream.device()));
  return static_cast<cudaStream_t>(stream.native());
}

DeviceGuard::DeviceGuard(int device_index) {
  cuda_check(cudaGetDevice(&previous_), "cudaGetDevice");
  if (previous_ == device_index) return;
  cuda_check(cudaSetDevice(device_index), fmt::format("cudaSetDevice({})", device_index));
  changed_ = true;
}

DeviceGuard::~DeviceGuard() {
  if (changed_) static_cast<void>(cudaSetDevice(previous_));  // it was current before
}

}  // namespace neox
