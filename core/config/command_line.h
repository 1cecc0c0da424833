#pragma once
// The command line as lists of what it asks for; values are not interpreted here.

#include <string>
#include <vector>

#include "core/config/option.h"
#include "core/config/parse.h"
#include "core/config/problems.h"

namespace neox::detail {

/// --section.key value
struct Setting {
  const Option* option;
  std::string written;  // "section.key" as typed, perhaps a deprecated name
  std::string value;
};

struct CommandLine {
  std::vector<std::string> config_files;
  std::vector<Setting> settings;
  std::vector<std::string> positional;
  bool help = false, version = false, print_config = false, print_config_docs = false;
  bool verbose = false;
};

/// Reads all arguments after argv[0], writes the targets of the program's own options, and adds
/// what is wrong to `problems`.
CommandLine read_command_line(int argc, const char* const* argv, const Program& program,
                              Problems& problems);

}  // namespace neox::detail
