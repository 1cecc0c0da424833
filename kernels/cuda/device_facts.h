#pragma once
// Facts of an NVIDIA GPU.

#include <string>

#include "kernels/device_facts.h"

namespace neox {

#ifdef NEOX_HAS_CUDA
/// The CUDA runtime must be registered. Throws Error.
DeviceFacts cuda_device_facts(int device_index);
/// "9.13.0"; "" where cuDNN cannot be used (cudnn_problem).
std::string cudnn_version();
#else
inline DeviceFacts cuda_device_facts(int) {
  return {};
}
#endif

}  // namespace neox
