#pragma once
// SHA-256 (FIPS 180-4), for comparing with sums in the reference data.

#include <string>
#include <string_view>

namespace neox {

std::string sha256_hex(std::string_view bytes);

}  // namespace neox
