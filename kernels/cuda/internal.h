#pragma once
// What the sources of the CUDA backend share. Private to kernels/cuda and its tests.

#include <source_location>
#include <string_view>

#include <cuda_runtime_api.h>

#include "core/tensor/device.h"

namespace neox {

/// Throws Error naming the call, CUDA's code and CUDA's text unless `code` is cudaSuccess; the
/// place is the caller's. Work runs later than it is queued, so a failure may come from earlier
/// work of the device.
void cuda_check(cudaError_t code, std::string_view call,
                std::source_location where = std::source_location::current());

/// The queue behind `stream`. Throws Error when it belongs to another kind of device.
cudaStream_t cuda_stream(const Stream& stream);

/// Makes a device the current one of this thread for a scope. Throws Error when there is no such
/// device.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device_index);
  ~DeviceGuard();
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int previous_ = 0;
  bool changed_ = false;
};

}  // namespace neox
