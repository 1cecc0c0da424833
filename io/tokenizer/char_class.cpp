#include "io/tokenizer/char_class.h"

#include <algorithm>
#include <map>
#include <string_view>

#include <unicode/uchar.h>

namespace neox {
namespace {

constexpr std::size_t kBlock = 128;

// Called by ICU for each range [begin, end) of one general category.
UBool fill_range(const void* context, UChar32 begin, UChar32 end, UCharCategory category) {
  const std::uint32_t mask = U_MASK(category);
  const CharClass kind = (mask & U_GC_L_MASK) != 0   ? CharClass::letter
                         : (mask & U_GC_N_MASK) != 0 ? CharClass::number
                                                     : CharClass::other;
  auto* classes = *static_cast<CharClass* const*>(context);
  std::fill(classes + begin, classes + end, kind);
  return true;
}

}  // namespace

CharClassTable::CharClassTable() {
  std::vector<CharClass> classes(0x110000, CharClass::other);
  CharClass* all = classes.data();
  u_enumCharTypes(fill_range, &all);
  for (UChar32 code = 0; code < 0x10000; ++code) {  // all white space is in the basic plane
    if (u_isUWhiteSpace(code)) classes[static_cast<std::size_t>(code)] = CharClass::space;
  }
  std::map<std::string_view, std::uint16_t> known;
  for (std::size_t root = 0; root < roots_.size(); ++root) {
    const auto first = classes.begin() + static_cast<std::ptrdiff_t>(root * kBlock);
    const std::string_view block(reinterpret_cast<const char*>(&*first), kBlock);
    const auto [entry, added] =
        known.emplace(block, static_cast<std::uint16_t>(leaves_.size() / kBlock));
    if (added) leaves_.insert(leaves_.end(), first, first + kBlock);
    roots_[root] = entry->second;
  }
}

const CharClassTable& CharClassTable::instance() {
  static const CharClassTable table;
  return table;
}

}  // namespace neox
