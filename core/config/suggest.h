#pragma once
// "did you mean ...": what to say about a name that no option has.

#include <string>
#include <string_view>
#include <vector>

namespace neox::detail {

/// Edit distance with transpositions, regardless of case; '-' equals '_'.
std::size_t edit_distance(std::string_view a, std::string_view b);

/// The candidate closest to `name`, "" when none is close enough to be meant.
std::string nearest_name(std::string_view name, const std::vector<std::string>& candidates);

/// For `key` = "section.name" or "name", which find_option() does not know: what is wrong and what
/// was probably meant, as "unknown option 'model.hiden_size'{where}; did you mean 'hidden_size'?".
/// `where` is put after the name: " in run.ini:12".
std::string unknown_option_text(std::string_view key, const std::string& where);

/// The same for a section.
std::string unknown_section_text(std::string_view section, const std::string& where);
bool is_section(std::string_view name);

}  // namespace neox::detail
