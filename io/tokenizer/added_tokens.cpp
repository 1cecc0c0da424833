#include "io/tokenizer/added_tokens.h"

#include <algorithm>
#include <cstring>

#include <unicode/uchar.h>

#include "io/tokenizer/char_class.h"

namespace neox {
namespace {

// \w as Rust's regular expressions have it: Alphabetic, M, Nd, Pc, Join_Control.
bool is_word_char(char32_t code) {
  const auto c = static_cast<UChar32>(code);
  return u_isUAlphabetic(c) || (U_GET_GC_MASK(c) & (U_GC_M_MASK | U_GC_ND_MASK | U_GC_PC_MASK)) ||
         u_hasBinaryProperty(c, UCHAR_JOIN_CONTROL);
}

std::size_t last_char(std::string_view text) {
  std::size_t at = text.size() - 1;
  while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) --at;
  return at;
}

bool is_space(char32_t code) {
  return CharClassTable::instance().of(code) == CharClass::space;
}

// Two bytes at every position of a block compared at once; the compiler maps it to what the CPU
// has.
constexpr std::size_t kLanes = 32;
using Lanes __attribute__((vector_size(kLanes))) = signed char;
constexpr std::size_t kMaxPairs = 4;

}  // namespace

void AddedTokenMatcher::add(const AddedToken& token, std::string_view pattern) {
  std::size_t node = 0;
  for (const char c : pattern) {
    auto& children = trie_[node].children;
    const auto child = std::find_if(children.begin(), children.end(),
                                    [c](const auto& entry) { return entry.first == c; });
    if (child != children.end()) {
      node = static_cast<std::size_t>(child->second);
      continue;
    }
    children.emplace_back(c, static_cast<std::int32_t>(trie_.size()));
    node = trie_.size();
    trie_.emplace_back();
  }
  if (trie_[node].token >= 0) return;
  trie_[node].token = static_cast<std::int32_t>(tokens_.size());
  tokens_.push_back(token);
  has_rules_ |= token.single_word || token.lstrip || token.rstrip;
}

void AddedTokenMatcher::build() {
  starts_.assign(65536, 0);
  bool one_byte = false;
  for (const auto& [first, next] : trie_[0].children) {
    const Node& node = trie_[static_cast<std::size_t>(next)];
    const std::size_t row = static_cast<std::size_t>(static_cast<unsigned char>(first)) << 8;
    if (node.token >= 0) {
      std::fill_n(starts_.begin() + static_cast<std::ptrdiff_t>(row), 256, std::uint8_t{1});
      one_byte = true;
    }
    for (const auto& [second, unused] : node.children) {
      starts_[row | static_cast<unsigned char>(second)] = 1;
      pairs_.emplace_back(first, second);
    }
  }
  if (one_byte || pairs_.size() > kMaxPairs) pairs_.clear();
}

std::size_t AddedTokenMatcher::find_candidate(std::string_view text, std::size_t at) const {
  if (tokens_.empty()) return text.size();
  const char* p = text.data();
  if (!pairs_.empty()) {
    for (; at + kLanes < text.size(); at += kLanes) {
      Lanes first, second;
      std::memcpy(&first, p + at, kLanes);
      std::memcpy(&second, p + at + 1, kLanes);
      Lanes hits{};
      for (const auto& [a, b] : pairs_) {
        hits |= (first == static_cast<signed char>(a)) & (second == static_cast<signed char>(b));
      }
      std::uint64_t any[kLanes / 8];
      std::memcpy(any, &hits, kLanes);
      if ((any[0] | any[1] | any[2] | any[3]) != 0) break;
    }
  }
  for (; at + 1 < text.size(); ++at) {
    const auto a = static_cast<unsigned char>(p[at]), b = static_cast<unsigned char>(p[at + 1]);
    if (starts_[static_cast<std::size_t>(a) << 8 | b]) return at;
  }
  // The last byte: only a token of one byte fits, and then all of its row is set.
  if (at < text.size() &&
      !starts_[static_cast<std::size_t>(static_cast<unsigned char>(p[at])) << 8]) {
    return text.size();
  }
  return at;
}

AddedTokenMatcher::Match AddedTokenMatcher::longest_at(std::string_view text,
                                                       std::size_t at) const {
  Match best{-1, at};
  const Node* node = trie_.data();
  while (at < text.size()) {
    const char c = text[at];
    const auto child = std::find_if(node->children.begin(), node->children.end(),
                                    [c](const auto& entry) { return entry.first == c; });
    if (child == node->children.end()) break;
    node = &trie_[static_cast<std::size_t>(child->second)];
    ++at;
    if (node->token >= 0) best = {node->token, at};
  }
  return best;
}

bool AddedTokenMatcher::apply_rules(const AddedToken& token, std::string_view text,
                                    std::size_t done, std::size_t& begin, std::size_t& end) {
  if (token.single_word) {
    const auto at_end = [&] { return decode_utf8(text.data() + end).code; };
    if (begin > 0 &&
        is_word_char(decode_utf8(text.data() + last_char(text.substr(0, begin))).code)) {
      return false;
    }
    if (end < text.size() && is_word_char(at_end())) return false;
  }
  if (token.lstrip) {
    while (begin > done) {
      const std::size_t previous = last_char(text.substr(0, begin));
      if (!is_space(decode_utf8(text.data() + previous).code)) break;
      begin = previous;
    }
    begin = std::max(begin, done);
  }
  while (token.rstrip && end < text.size()) {
    const Utf8Char next = decode_utf8(text.data() + end);
    if (!is_space(next.code)) break;
    end += next.length;
  }
  return true;
}

}  // namespace neox
