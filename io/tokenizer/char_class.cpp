#include "io/tokenizer/char_class.h"

#include <map>

#include <unicode/uchar.h>

namespace neox {
namespace {

constexpr std::size_t kBlock = 128;

CharClass class_of(UChar32 code) {
  if (u_isUWhiteSpace(code)) return CharClass::space;
  const std::uint32_t mask = U_GET_GC_MASK(code);
  if (mask & U_GC_L_MASK) return CharClass::letter;
  if (mask & U_GC_N_MASK) return CharClass::number;
  return CharClass::other;
}

}  // namespace

CharClassTable::CharClassTable() {
  std::map<std::array<CharClass, kBlock>, std::uint16_t> known;
  std::array<CharClass, kBlock> block{};
  for (std::size_t root = 0; root < roots_.size(); ++root) {
    for (std::size_t i = 0; i < kBlock; ++i) {
      block[i] = class_of(static_cast<UChar32>(root * kBlock + i));
    }
    const auto [entry, added] =
        known.emplace(block, static_cast<std::uint16_t>(leaves_.size() / kBlock));
    if (added) leaves_.insert(leaves_.end(), block.begin(), block.end());
    roots_[root] = entry->second;
  }
}

const CharClassTable& CharClassTable::instance() {
  static const CharClassTable table;
  return table;
}

}  // namespace neox
