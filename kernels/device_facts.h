#pragma once
// What a device is and what it works through, for people and for comparing nodes.

#include <cstddef>
#include <map>
#include <optional>
#include <string>

#include "core/tensor/device.h"

namespace neox {

struct DeviceFacts {
  std::string model;                            ///< "NVIDIA H100 80GB HBM3"
  std::size_t free_bytes = 0, total_bytes = 0;  ///< free now, of what all processes use
  /// The libraries it is used through, as {"CUDA driver", "13.0"}.
  std::map<std::string, std::string> versions;
};

/// Opens the libraries. Nothing for the CPU and for simulated devices; throws Error when a device
/// or a library does not answer.
std::optional<DeviceFacts> device_facts(Device device);

}  // namespace neox
