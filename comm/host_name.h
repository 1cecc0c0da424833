#pragma once

#include <string>

namespace neox {

/// The name of the machine this process runs on.
std::string host_name();

}  // namespace neox
