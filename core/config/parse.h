#pragma once
// From INI files and the command line to a Config. Nothing is derived here: see resolve.h.

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "core/config/config.h"

namespace neox {

/// Where each option that was set got its value: "optimizer.lr" -> "run.ini:12" or "command line".
/// An option that is absent has its default.
using Origins = std::map<std::string, std::string, std::less<>>;

/// An option of one program only, that is not part of a run's configuration (neox_preprocess
/// --input). `target` is written when the option is given; a bool target is a flag, a vector
/// collects repetitions.
struct ProgramOption {
  std::string name;  // without dashes: "append-eod"
  std::variant<bool*, std::int64_t*, double*, std::string*, std::vector<std::string>*> target;
  std::string doc;
  std::string placeholder = "VALUE";  // shown in --help
};

/// What a program tells the parser about itself.
struct Program {
  std::string name;     // "neox_train"
  std::string summary;  // one sentence
  std::string usage;    // "mpirun -np N neox_train --config FILE"; empty: from the name
  std::vector<std::string>
      sections;  // those it uses; shown by --help, accepted on its command line
  std::vector<ProgramOption> options = {};
  std::string positional = {};  // what free arguments are ("FILE"); empty: none are taken
};

struct ParsedCommand {
  Config config;                        // as written by the user: before resolve()
  Origins origins;                      // which options were set, and where
  std::vector<std::string> positional;  // free arguments
  std::vector<std::string> notes;       // for the log: deprecated names that were used, ...
  std::string answer;                   // not empty (--help, --version): print it to stdout, exit 0
  bool print_config = false;            // after resolve(): print effective_ini(), exit 0
};

/// Parses `--config FILE` (several: merged left to right, a later file wins), then `--section.key
/// VALUE` and `--section.key=VALUE`, which win over every file and the last of which wins; plus
/// --help,
/// --version, --print-config, --verbose (= --logging.verbose). A bool option without a value is
/// true.
/// '-' and '_' are interchangeable in names. Files may set options of any section.
/// Throws one Error that lists every problem found, one line each, with file:line, option and
/// advice.
ParsedCommand parse_command_line(int argc, const char* const* argv, const Program& program);

/// Parses INI text such as effective_ini() writes. `name` stands for the file in messages. Throws
/// Error.
Config parse_ini_text(std::string_view text, const std::string& name);

}  // namespace neox
