#pragma once
// Element-wise reduction on the host, in a fixed order.

#include <cstddef>
#include <cstdint>
#include <span>

#include "comm/communicator.h"

namespace neox {

/// out[i] = sources[0][i] op sources[1][i] op …, from left to right; bf16 and f16 in float, rounded
/// once. `out` may be one of the sources.
void reduce_elements(DType dtype, ReduceOp op, std::span<const std::byte* const> sources,
                     std::byte* out, std::int64_t count);

}  // namespace neox
