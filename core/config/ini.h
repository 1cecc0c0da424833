#pragma once
// INI files as lists of entries with their places; which options exist is not known here.

#include <string>
#include <string_view>
#include <vector>

#include "core/config/problems.h"

namespace neox::detail {

struct IniEntry {
  std::string key;    // "section.name" as written; "name" before any section
  std::string value;  // without comment; still quoted where the file has quotes
  int line = 0;
};

struct IniSection {
  std::string name;
  int line = 0;
};

struct IniFile {
  std::vector<IniEntry> entries;
  std::vector<IniSection> sections;
};

/// Reads a whole configuration file. Adds a problem (missing, directory, not text, ...) and returns
/// "" on failure.
std::string read_config_file(const std::string& path, Problems& problems);

/// Parses INI text: `[section]`, `key = value`, comments that start with '#' or ';' at the
/// beginning of a line or after white space, "quoted" values. UTF-8, with or without BOM; LF or
/// CRLF. `name` is the file in messages. Lines of another shape become problems.
IniFile parse_ini(std::string_view text, const std::string& name, Problems& problems);

}  // namespace neox::detail
