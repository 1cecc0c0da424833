#include "tests/io/random_text.h"

#include <array>

#include <unicode/uchar.h>

namespace neox {

void append_utf8(std::string& out, char32_t code) {
  const auto put = [&out](char32_t byte) { out.push_back(static_cast<char>(byte)); };
  if (code < 0x80) return put(code);
  if (code < 0x800) {
    put(0xC0 | code >> 6);
  } else {
    if (code < 0x10000) {
      put(0xE0 | code >> 12);
    } else {
      put(0xF0 | code >> 18);
      put(0x80 | (code >> 12 & 0x3F));
    }
    put(0x80 | (code >> 6 & 0x3F));
  }
  put(0x80 | (code & 0x3F));
}

bool same_in_all_versions(char32_t code) {
  if (code >= 0xD800 && code < 0xE000) return false;
  UVersionInfo age;
  u_charAge(static_cast<UChar32>(code), age);
  return age[0] < 14;
}

std::string random_text(std::mt19937& random, int max_parts) {
  static constexpr std::array kSnippets = {
      "the",     " the",   "'s",     "'ll",    "'",      " ",
      "  ",      "\n",     "\r\n",   "\t",     "12",     "é",
      "e\u0301", "日本",   "\u00A0", "\u3000", "\u180E", "\u200B",
      "\uFEFF",  "²",      "Ⅷ",      "_",      "...",    "<|endoftext|>",
      "🙂",    "\u0085", "\u2028", "\u0130", "\uAC00", "\u1100\u1161",
      "\uFB01",  "\u0344", "\u212B"};
  const auto below = [&random](std::uint32_t n) {
    return std::uniform_int_distribution<std::uint32_t>(0, n - 1)(random);
  };
  std::string text;
  const auto parts = static_cast<int>(below(static_cast<std::uint32_t>(max_parts) + 1));
  for (int i = 0; i < parts; ++i) {
    switch (below(5)) {
      case 0: {
        char32_t code = below(3) == 0 ? below(0x110000) : below(0x3100);
        if (!same_in_all_versions(code)) code = 0xFFFD;
        append_utf8(text, code);
        break;
      }
      case 1:
        text.append(1 + below(40), static_cast<char>(0x20 + below(0x5F)));
        break;
      case 2:
        text.push_back(static_cast<char>('a' + below(26)));
        break;
      default:
        text += kSnippets[below(kSnippets.size())];
    }
  }
  return text;
}

}  // namespace neox
