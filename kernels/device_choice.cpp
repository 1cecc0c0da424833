#include "kernels/device_choice.h"

#include "core/base/error.h"
#include "kernels/cuda/device_runtime.h"
#include "kernels/cuda/simulated_runtime.h"

namespace neox {

DeviceChoice choose_device_kind(const std::string& wanted) {
  if (wanted == "cpu") return {};
  if (wanted == "simulated") {
    register_simulated_runtime();
    return {DeviceKind::simulated, ""};
  }
  require(wanted == "auto" || wanted == "cuda", "internal error: no device is called '{}'", wanted);
  const std::string reason = register_cuda_runtime();
  if (reason.empty()) return {DeviceKind::cuda, ""};
  require(wanted == "auto",
          "system.device = cuda, but {}; correct that, or set system.device = auto or cpu", reason);
  return {DeviceKind::cpu, reason};
}

}  // namespace neox
