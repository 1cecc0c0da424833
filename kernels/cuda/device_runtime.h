#pragma once
// Memory, streams and events of NVIDIA GPUs.

#include <string>

namespace neox {

/// Registers the runtime of DeviceKind::cuda (core/tensor/device.h) when this machine has a usable
/// GPU. Returns "" then, else the reason in a few words: "no CUDA driver is installed", "no CUDA
/// device is visible", ... Never throws for want of a GPU; may be called again.
#ifdef NEOX_HAS_CUDA
std::string register_cuda_runtime();
#else
inline std::string register_cuda_runtime() {
  return "this program was built without CUDA";
}
#endif

}  // namespace neox
