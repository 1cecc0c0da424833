#pragma once

#include <string>
#include <vector>

#include "core/config/parse.h"

namespace neox {

/// GPT-NeoX configurations (YAML, or its JSON-like form), merged as deepy.py does: a key may stand
/// in one file only, '-' and '_' are the same. Every key becomes an option of ours or a comment
/// with the reason why it does not apply. `command`: settings that win over the files
/// (--section.option VALUE). Returns an INI file. Throws one Error that lists every problem with
/// file and line: unknown keys, and keys that ask for what this program cannot do.
std::string ini_from_neox_yaml(const std::vector<std::string>& files, const ParsedCommand& command);

}  // namespace neox
