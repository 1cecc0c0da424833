#pragma once
// The Unicode classes that GPT-2's pattern tells apart.

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace neox {

/// letter: category L, number: category N, space: property White_Space.
enum class CharClass : std::uint8_t { other, letter, number, space };

/// Class of every code point: two-level table made from ICU's data.
class CharClassTable {
 public:
  static const CharClassTable& instance();

  CharClass of(char32_t code) const {
    return leaves_[static_cast<std::size_t>(roots_[code >> 7]) << 7 | (code & 127)];
  }
  CharClass of_ascii(unsigned char c) const { return leaves_[c]; }

 private:
  CharClassTable();

  std::array<std::uint16_t, 0x110000 / 128> roots_{};
  std::vector<CharClass> leaves_;  // blocks of 128 classes, equal blocks shared; block 0 is ASCII
};

/// A character of valid UTF-8.
struct Utf8Char {
  char32_t code;
  std::size_t length;
};

inline Utf8Char decode_utf8(const char* p) {
  const auto b = [p](int i) { return static_cast<char32_t>(static_cast<unsigned char>(p[i])); };
  if (b(0) < 0x80) return {b(0), 1};
  if (b(0) < 0xE0) return {(b(0) & 0x1F) << 6 | (b(1) & 0x3F), 2};
  if (b(0) < 0xF0) return {(b(0) & 0x0F) << 12 | (b(1) & 0x3F) << 6 | (b(2) & 0x3F), 3};
  return {(b(0) & 0x07) << 18 | (b(1) & 0x3F) << 12 | (b(2) & 0x3F) << 6 | (b(3) & 0x3F), 4};
}

}  // namespace neox
