#include "io/tokenizer/utf8.h"

#include <cstdint>

#include <simdjson.h>

namespace neox {
namespace {

// One step of decoding: how many bytes belong together and whether they are a character. An invalid
// part is the longest beginning of a character (table 3-7 of the Unicode standard), at least a
// byte.
struct Step {
  std::size_t length;
  bool valid;
  bool cut;  // ends with the text, and more bytes could make it valid
};

Step next_step(std::string_view text, std::size_t at) {
  const auto byte = [&](std::size_t i) { return static_cast<std::uint8_t>(text[i]); };
  const std::uint8_t lead = byte(at);
  if (lead < 0x80) return {1, true, false};
  if (lead < 0xC2 || lead > 0xF4) return {1, false, false};
  const std::size_t need = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  std::uint8_t low = 0x80, high = 0xBF;
  if (lead == 0xE0) low = 0xA0;   // overlong
  if (lead == 0xED) high = 0x9F;  // surrogates
  if (lead == 0xF0) low = 0x90;   // overlong
  if (lead == 0xF4) high = 0x8F;  // above U+10FFFF
  for (std::size_t i = 1; i < need; ++i) {
    if (at + i == text.size()) return {i, false, true};
    const std::uint8_t next = byte(at + i);
    if (next < low || next > high) return {i, false, false};
    low = 0x80;
    high = 0xBF;
  }
  return {need, true, false};
}

}  // namespace

std::size_t find_invalid_utf8(std::string_view bytes) {
  if (simdjson::validate_utf8(bytes.data(), bytes.size())) return std::string_view::npos;
  for (std::size_t at = 0; at < bytes.size();) {
    const Step step = next_step(bytes, at);
    if (!step.valid) return at;
    at += step.length;
  }
  return std::string_view::npos;
}

std::size_t complete_utf8_prefix(std::string_view bytes) {
  const std::size_t back = bytes.size() < 3 ? bytes.size() : 3;
  for (std::size_t i = bytes.size() - back; i < bytes.size(); ++i) {
    if (next_step(bytes, i).cut) return i;
  }
  return bytes.size();
}

std::string to_valid_utf8(std::string_view bytes) {
  std::string out;
  out.reserve(bytes.size());
  for (std::size_t at = 0; at < bytes.size();) {
    const Step step = next_step(bytes, at);
    if (step.valid) {
      out.append(bytes.substr(at, step.length));
    } else {
      out.append("\xEF\xBF\xBD");
    }
    at += step.length;
  }
  return out;
}

}  // namespace neox
