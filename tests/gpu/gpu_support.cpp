#include "tests/gpu/gpu_support.h"

#include "kernels/backend.h"
#include "kernels/cuda/device_runtime.h"
#include "kernels/cuda/simulated_runtime.h"

namespace neox::testing {
namespace {

[[maybe_unused]] const bool kRegistered = (register_simulated_runtime(), true);

}  // namespace

const std::string& no_gpu_reason() {
  static const std::string reason = register_cuda_runtime();
  return reason;
}

const Backend& cpu_backend() {
  static const std::unique_ptr<Backend> backend = make_backend(Device{});
  return *backend;
}

const Backend& cuda_kernels_on(Device device) {
  if (device == kGpu) {
    static const ElementwiseOnly on_gpu(kGpu, cpu_backend());
    return on_gpu;
  }
  static const ElementwiseOnly simulated(kSimulated, cpu_backend());
  return simulated;
}

}  // namespace neox::testing
