#pragma once
// GPT-2's printable stand-ins for bytes: byte-level vocabularies write every byte as one character.

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace neox {

/// The character that stands for each byte, as UTF-8: printable Latin-1 stands for itself, the
/// other 68 bytes are U+0100 … U+0143 in order (the space is U+0120).
const std::array<std::string, 256>& byte_characters();
/// Code point of byte_characters()[byte].
char32_t byte_code_point(std::uint8_t byte);

/// "Ġthe" for " the".
std::string bytes_to_token(std::string_view bytes);
/// " the" for "Ġthe"; nothing when a character stands for no byte.
std::optional<std::string> token_to_bytes(std::string_view token);

}  // namespace neox
