#pragma once

#include <string>

namespace neox {

/// "0.1.0"
std::string version();
/// Throws Error when this binary was compiled for instructions that this CPU lacks (NEOX_MARCH).
void require_compatible_cpu();

}  // namespace neox
