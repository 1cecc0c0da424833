#pragma once
// What kind of device a run computes on.

#include <string>

#include "core/tensor/device.h"

namespace neox {

struct DeviceChoice {
  DeviceKind kind = DeviceKind::cpu;
  std::string why_not_cuda;  ///< of "auto": the reason in a few words when `kind` is the CPU
};

/// `wanted`: auto, cpu, cuda or simulated (system.device). Registers the kind's runtime. Throws
/// Error saying why when `wanted` cannot be had.
DeviceChoice choose_device_kind(const std::string& wanted);

}  // namespace neox
