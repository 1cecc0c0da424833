#pragma once
// A GPU without a GPU: what the CUDA engine needs of DeviceKind::simulated.

#include "core/base/error.h"

namespace neox {

#ifdef NEOX_HAS_CUDA
/// Registers the runtime of DeviceKind::simulated; may be called again. Its memory is the host's,
/// but tensors there are marked, so that an access from host code is an Error; new memory is full
/// of NaN. Its streams run work at once.
void register_simulated_runtime();
#else
/// Throws Error.
inline void register_simulated_runtime() {
  fail("a simulated GPU runs the CUDA kernels' code, but this program was built without CUDA");
}
#endif

}  // namespace neox
