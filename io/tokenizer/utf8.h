#pragma once
// UTF-8 as it comes from outside.

#include <cstddef>
#include <string>
#include <string_view>

namespace neox {

/// Offset of the first byte that can't be part of valid UTF-8; npos when all is valid.
std::size_t find_invalid_utf8(std::string_view bytes);

/// Length of the longest prefix that doesn't end inside a character: what a stream may print now. A
/// tail that can't become a character any more counts as complete.
std::size_t complete_utf8_prefix(std::string_view bytes);

/// Valid UTF-8: each maximal invalid part becomes U+FFFD (the Unicode standard's recommendation,
/// also Hugging Face's decode()).
std::string to_valid_utf8(std::string_view bytes);

}  // namespace neox
