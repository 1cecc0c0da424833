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
  const BackendOptions own{.deterministic = true, .library_attention = false};
  if (device == kGpu) {
    static const std::unique_ptr<Backend> on_gpu = make_backend(kGpu, own);
    return *on_gpu;
  }
  static const std::unique_ptr<Backend> simulated = make_backend(kSimulated, own);
  return *simulated;
}

}  // namespace neox::testing
