#pragma once
// A GPU without a GPU: what the CUDA engine needs of DeviceKind::simulated.

namespace neox {

/// Registers the runtime of DeviceKind::simulated; may be called again. Its memory is the host's,
/// but tensors there are marked, so that an access from host code is an Error; new memory is full
/// of NaN. Its streams run work at once.
void register_simulated_runtime();

}  // namespace neox
