#include "io/tokenizer/byte_alphabet.h"

namespace neox {
namespace {

constexpr bool stands_for_itself(unsigned byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD);
}

struct Tables {
  std::array<char32_t, 256> code_points{};
  std::array<std::string, 256> characters;
  std::array<std::int16_t, 0x180> bytes{};  // by code point; -1: none

  Tables() {
    bytes.fill(-1);
    char32_t next = 0x100;
    for (unsigned byte = 0; byte < 256; ++byte) {
      const char32_t code = stands_for_itself(byte) ? byte : next++;
      code_points[byte] = code;
      bytes[code] = static_cast<std::int16_t>(byte);
      std::string& text = characters[byte];
      if (code < 0x80) {
        text.push_back(static_cast<char>(code));
      } else {
        text.push_back(static_cast<char>(0xC0 | (code >> 6)));
        text.push_back(static_cast<char>(0x80 | (code & 0x3F)));
      }
    }
  }
};

const Tables& tables() {
  static const Tables instance;
  return instance;
}

}  // namespace

const std::array<std::string, 256>& byte_characters() {
  return tables().characters;
}

char32_t byte_code_point(std::uint8_t byte) {
  return tables().code_points[byte];
}

std::string bytes_to_token(std::string_view bytes) {
  std::string token;
  token.reserve(2 * bytes.size());
  for (const char c : bytes) token += byte_characters()[static_cast<std::uint8_t>(c)];
  return token;
}

std::optional<std::string> token_to_bytes(std::string_view token) {
  std::string out;
  out.reserve(token.size());
  for (std::size_t i = 0; i < token.size(); ++i) {
    unsigned code = static_cast<std::uint8_t>(token[i]);
    if (code >= 0x80) {  // all stand-ins are below U+0180: two bytes of UTF-8 at most
      if ((code & 0xE0) != 0xC0 || i + 1 == token.size()) return std::nullopt;
      code = (code & 0x1F) << 6 | (static_cast<std::uint8_t>(token[++i]) & 0x3F);
    }
    if (code >= tables().bytes.size() || tables().bytes[code] < 0) return std::nullopt;
    out.push_back(static_cast<char>(tables().bytes[code]));
  }
  return out;
}

}  // namespace neox
