#pragma once

#include <cstdint>

namespace neox {

/// Calls of operator new in this program so far, by all threads.
std::int64_t heap_calls();

}  // namespace neox
