#include "kernels/device_facts.h"

#include "kernels/cuda/device_facts.h"

namespace neox {

std::optional<DeviceFacts> device_facts(Device device) {
  if (device.kind != DeviceKind::cuda) return std::nullopt;
  return cuda_device_facts(device.index);
}

}  // namespace neox
