#include "kernels/backend.h"

#include "core/base/error.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cuda/device_runtime.h"

namespace neox {

std::unique_ptr<Backend> make_backend(Device device) {
  if (device.is_cpu()) return std::make_unique<CpuBackend>();
  const std::string reason = register_cuda_runtime();
  require(reason.empty(), "no backend for {}: {}; choose the device cpu", name_of(device), reason);
  fail(
      "no backend for {}: of the kernels for CUDA only the elementwise ones exist; linear, norm, "
      "attention, embedding, loss, optimizer and hash are missing; choose the device cpu",
      name_of(device));
}

}  // namespace neox
