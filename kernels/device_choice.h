#pragma once
// Which device a rank computes on.

#include <string>

#include "core/tensor/device.h"

namespace neox {

struct DeviceChoice {
  Device device;
  std::string why_not_cuda;  ///< of "auto": the reason in a few words when `device` is the CPU
};

/// `wanted`: auto, cpu, cuda or simulated (system.device). Registers the device's runtime. On a
/// node with several GPUs, rank `local_rank` of the node gets GPU local_rank modulo their number.
/// Throws Error saying why when `wanted` cannot be had.
DeviceChoice choose_device(const std::string& wanted, int local_rank);

}  // namespace neox
