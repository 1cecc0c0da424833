#pragma once
// The option table: every option is declared once, in options_*.cpp, and everything else is made
// from it: parsing, --help, the printed configuration, docs/config.md, "did you mean".

#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "core/config/config.h"

namespace neox {

/// A word that an option may be set to. Words are compared without regard to case.
struct Choice {
  std::string_view word;
  std::string_view doc = {};
  std::string_view aliases = {};  // other spellings, space separated
};

/// Allowed numbers; for a list, of each element.
struct Range {
  double min = -std::numeric_limits<double>::infinity();
  double max = std::numeric_limits<double>::infinity();
  bool above_min = false;  // min itself is excluded
  bool below_max = false;  // max itself is excluded
  bool contains(double value) const;
  /// "", "at least 1", "greater than 0 and at most 1"
  std::string text() const;
};

/// Access to an option whose value is one of its choices but not stored as a string.
struct WordField {
  std::string_view (*get)(const Config&);
  void (*set)(Config&, std::string_view word);  // word: exactly as in the choices
};

/// Access to the field behind an option.
using Field = std::variant<bool& (*)(Config&), std::int64_t& (*)(Config&), double& (*)(Config&),
                           std::string& (*)(Config&), std::vector<std::string>& (*)(Config&),
                           std::vector<double>& (*)(Config&),
                           std::vector<std::int64_t>& (*)(Config&), WordField>;

struct Option {
  std::string_view name;
  Field field;
  std::string_view doc;  // one line, ends without a full stop
  std::string_view unit = {};
  std::string_view default_means = {};  // what the default (0, -1, empty) stands for
  Range range = {};
  std::span<const Choice> choices = {};
  std::size_t list_size = 0;      // elements of a list (or none, if none is the default); 0: any
  std::string_view aliases = {};  // deprecated names, space separated
  bool required = false;          // resolve() fails without it
  bool architecture = false;  // weights made under another value don't fit or mean something else
  std::string (*validate)(const Config&) = nullptr;  // "" or what was expected instead
  std::string_view section = {};                     // filled in by options()

  /// "model.hidden_size"
  std::string key() const;
};

struct Section {
  std::string_view name;
  std::string_view doc;
};

std::span<const Section> sections();
/// All options, in the order of their sections.
std::span<const Option> options();

/// By "section.name", where '-' may stand for '_'; deprecated names are found too. nullptr: none.
const Option* find_option(std::string_view key);
/// `key` with '_' for '-'.
std::string normalised_key(std::string_view key);
/// Why a GPT-NeoX option has no counterpart here and what to write instead; "" for unknown names.
std::string_view absent_option_advice(std::string_view name);

/// "bool", "int", "float", "string", "list of float", ...
std::string type_text(const Option& option);
/// What set_value() takes: "a whole number, at least 1", "one of layernorm, rmsnorm".
std::string expected_text(const Option& option);
/// The value in INI spelling; set_value() takes it back.
std::string value_text(const Option& option, const Config& config);
std::string default_text(const Option& option);
/// Parses an INI value into the field. Returns "" or what is wrong ("expected a whole number, at
/// least 1"); the field is then unchanged or holds a value of no meaning.
std::string set_value(const Option& option, Config& config, std::string_view text);

// The table, by section: options_model.cpp, options_training.cpp, options_io.cpp.
std::vector<Option> model_options();
std::vector<Option> parallel_options();
std::vector<Option> precision_options();
std::vector<Option> batch_options();
std::vector<Option> optimizer_options();
std::vector<Option> schedule_options();
std::vector<Option> train_options();
std::vector<Option> system_options();
std::vector<Option> data_options();
std::vector<Option> tokenizer_options();
std::vector<Option> checkpoint_options();
std::vector<Option> guards_options();
std::vector<Option> logging_options();
std::vector<Option> generate_options();

}  // namespace neox
