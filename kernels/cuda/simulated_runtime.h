#pragma once
// A GPU without a GPU: what the CUDA engine needs of DeviceKind::simulated.

#include <functional>

#include "core/base/error.h"
#include "core/tensor/device.h"

namespace neox {

#ifdef NEOX_HAS_CUDA
/// Registers the runtime of DeviceKind::simulated; may be called again. Its memory is the host's,
/// but tensors there are marked, so that an access from host code is an Error; new memory is full
/// of NaN. Its streams run work at
/// once, or record it as CUDA's do: then allocating and waiting are Errors.
void register_simulated_runtime();

/// While `stream` is one of that runtime and its work is being recorded: keeps `work` for every
/// launch of the graph and returns true. Else false: whoever has the work does it now.
bool record_simulated(Stream& stream, std::function<void()> work);
/// Whether record_simulated would keep work.
bool recording_simulated(Stream& stream);
#else
/// Throws Error.
inline void register_simulated_runtime() {
  fail("a simulated GPU runs the CUDA kernels' code, but this program was built without CUDA");
}
#endif

}  // namespace neox
