#include "tests/gpu/block_families.h"

#include "tests/gpu/gpu_support.h"

namespace neox::testing {

const Backend& block_families_on(Device device) {
  if (device == kGpu) {
    static const BlockFamilies on_gpu(kGpu, cpu_backend());
    return on_gpu;
  }
  static const BlockFamilies simulated(kSimulated, cpu_backend());
  return simulated;
}

}  // namespace neox::testing
