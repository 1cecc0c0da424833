#pragma once
// The keys of GPT-NeoX that are options here under the same name, and those that are not.

#include <span>
#include <string_view>

namespace neox::detail {

/// Keys of one of our sections, space separated; "theirs=ours" where the names differ.
struct SameKeys {
  std::string_view section;
  std::string_view names;
};
std::span<const SameKeys> same_keys();

/// A key without an option.
struct AbsentKey {
  std::string_view name;
  /// Values that ask for nothing that is missing here, separated by '|'; "*": every value does not.
  std::string_view harmless;
  std::string_view reason;  ///< why it does not apply, or why it is refused
};
std::span<const AbsentKey> absent_keys();

/// Keys that neox_yaml.cpp translates itself, space separated.
extern const std::string_view kTranslatedKeys;

}  // namespace neox::detail
