#include "kernels/backend.h"

#include "core/base/error.h"
#include "kernels/cpu/cpu_backend.h"
#ifdef NEOX_HAS_CUDA
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/device_runtime.h"
#endif

namespace neox {

std::unique_ptr<Backend> make_backend(Device device, const BackendOptions& options) {
  if (device.is_cpu()) return std::make_unique<CpuBackend>();
#ifdef NEOX_HAS_CUDA
  if (device.kind == DeviceKind::cuda) {
    const std::string reason = register_cuda_runtime();
    require(reason.empty(), "no backend for {}: {}; choose the device cpu", name_of(device),
            reason);
  }
  return std::make_unique<CudaBackend>(device, options);
#else
  static_cast<void>(options);
  fail("no backend for {}: this program was built without CUDA; choose the device cpu",
       name_of(device));
#endif
}

}  // namespace neox
