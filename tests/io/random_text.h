#pragma once
// Texts that tokenizers trip over.

#include <random>
#include <string>

namespace neox {

void append_utf8(std::string& out, char32_t code);

/// Not a surrogate, and not a character added by Unicode 14 or later: libraries of different ages
/// class those differently.
bool same_in_all_versions(char32_t code);

/// Up to `max_parts` characters and snippets: all of Unicode, white space, digits, apostrophes,
/// runs.
std::string random_text(std::mt19937& random, int max_parts);

}  // namespace neox
