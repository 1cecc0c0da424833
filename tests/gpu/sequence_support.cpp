#include "tests/gpu/sequence_support.h"

namespace neox::testing {

const Backend& sequence_kernels_on(Device device) {
  if (device == kGpu) {
    static const SequenceFamilies on_gpu(kGpu, cpu_backend());
    return on_gpu;
  }
  static const SequenceFamilies simulated(kSimulated, cpu_backend());
  return simulated;
}

}  // namespace neox::testing
