#include "core/config/command_line.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>

#include <boost/program_options/option.hpp>
#include <boost/program_options/options_description.hpp>
#include <boost/program_options/parsers.hpp>
#include <boost/program_options/value_semantic.hpp>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include "core/config/suggest.h"

namespace neox::detail {

namespace {

namespace po = boost::program_options;

struct GeneralFlag {
  std::string_view name;
  bool CommandLine::*member;
};
constexpr GeneralFlag kGeneralFlags[] = {{"help", &CommandLine::help},
                                         {"version", &CommandLine::version},
                                         {"print_config", &CommandLine::print_config},
                                         {"print_config_docs", &CommandLine::print_config_docs},
                                         {"verbose", &CommandLine::verbose}};

const GeneralFlag* general_flag(std::string_view name) {
  for (const GeneralFlag& flag : kGeneralFlags) {
    if (flag.name == name) return &flag;
  }
  return nullptr;
}

const ProgramOption* program_option(const Program& program, std::string_view name) {
  for (const ProgramOption& option : program.options) {
    if (normalised_key(option.name) == name) return &option;
  }
  return nullptr;
}

bool uses(const Program& program, std::string_view section) {
  return std::find(program.sections.begin(), program.sections.end(), section) !=
         program.sections.end();
}

bool is_known(const Program& program, const std::string& name) {
  return name == "config" || general_flag(name) != nullptr ||
         program_option(program, name) != nullptr || find_option(name) != nullptr;
}

// Flags do without a value.
bool is_flag(const Program& program, const std::string& name) {
  if (general_flag(name) != nullptr) return true;
  if (const ProgramOption* own = program_option(program, name)) {
    return std::holds_alternative<bool*>(own->target);
  }
  const Option* option = find_option(name);
  return option != nullptr && std::holds_alternative<bool& (*)(Config&)>(option->field);
}

bool is_truth_word(const std::string& text) {
  return text == "true" || text == "false" || text == "yes" || text == "no" || text == "on" ||
         text == "off";
}

// "--name", or "-name" in error; not "--", and not numbers below 0.
bool is_option(const std::string& token) {
  if (token.starts_with("--")) return token.size() > 2;
  return token.size() > 1 && token[0] == '-' && std::isalpha(static_cast<unsigned char>(token[1]));
}

// "--name=value" -> "name".
std::string written_name(const std::string& token) {
  const std::size_t begin = std::min(token.find_first_not_of('-'), token.size());
  return token.substr(begin, std::max(token.find('='), begin) - begin);
}

std::string name_of(const std::string& token) {
  return normalised_key(written_name(token));
}

// A value may start with dashes, but not look like one of our options.
bool looks_like_option(const Program& program, const std::string& token) {
  return token.starts_with("--") &&
         (is_known(program, name_of(token)) || name_of(token).find('.') != std::string::npos);
}

// Boost's own reading of "--name value" stops at the first unknown name and knows no '-' for '_'
// and no flag that may have a value; so Boost asks this function at every argument. Takes an option
// with its value off the front of `rest`; nothing when a free argument stands there. An option that
// lacks its value has none on return.
std::vector<po::option> take_option(const Program& program, std::vector<std::string>& rest) {
  const std::string token = rest.front() == "-h" ? "--help" : rest.front();
  if (!is_option(token)) return {};
  rest.erase(rest.begin());
  po::option option;
  option.string_key = name_of(token);
  option.original_tokens = {token};
  if (const std::size_t equals = token.find('='); equals != std::string::npos) {
    option.value = {token.substr(equals + 1)};
    return {option};
  }
  const bool flag = is_flag(program, option.string_key);
  bool takes_next = false;
  if (!rest.empty()) {
    const std::string& next = rest.front();
    if (general_flag(option.string_key) != nullptr) {
      takes_next = false;
    } else if (flag) {
      takes_next = is_truth_word(next);
    } else if (is_known(program, option.string_key)) {
      takes_next = !looks_like_option(program, next);
    } else {
      takes_next = !next.starts_with("--");  // so that it is not reported as well
    }
  }
  if (takes_next) {
    option.value = {rest.front()};
    rest.erase(rest.begin());
  } else if (flag) {
    option.value = {"true"};
  }
  return {option};
}

template <class T>
bool read_number(const std::string& text, T* target) {
  const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), *target);
  return error == std::errc() && rest == text.data() + text.size() &&
         std::isfinite(static_cast<double>(*target));
}

// Writes the value of a program's own option; returns "" or what was expected.
std::string set_program_option(const ProgramOption& option, const std::string& text) {
  if (auto* flag = std::get_if<bool*>(&option.target)) {
    **flag = text == "true" || text == "yes" || text == "on";
    return is_truth_word(text) ? "" : "expected true or false";
  }
  if (auto* whole = std::get_if<std::int64_t*>(&option.target)) {
    return read_number(text, *whole) ? "" : "expected a whole number";
  }
  if (auto* number = std::get_if<double*>(&option.target)) {
    return read_number(text, *number) ? "" : "expected a number";
  }
  if (auto* target = std::get_if<std::string*>(&option.target)) {
    **target = text;
  } else {
    std::get<std::vector<std::string>*>(option.target)->push_back(text);
  }
  return "";
}

// Sorts what Boost found into flags, program options, free arguments and settings.
class Sorter {
 public:
  Sorter(const Program& program, CommandLine& line, Problems& problems)
      : program_(program), line_(line), problems_(problems) {}

  void take(const po::option& option) {
    const std::string value = option.value.empty() ? "" : option.value.front();
    if (option.string_key.empty()) return free_argument(value);
    const std::string& name = option.string_key;
    const std::string token = option.original_tokens.front();
    const std::string written = token.substr(0, token.find('='));
    if (!is_known(program_, name) || !token.starts_with("--")) return unknown(written, name);
    if (option.value.empty()) return complain(written + " needs a value");
    if (name == "config") {
      line_.config_files.push_back(value);
    } else if (const GeneralFlag* flag = general_flag(name)) {
      line_.*flag->member = true;
      if (value != "true") complain(written + " takes no value");
    } else if (const ProgramOption* own = program_option(program_, name)) {
      const std::string problem = set_program_option(*own, value);
      if (!problem.empty()) complain(fmt::format("{} {}: {}", written, value, problem));
    } else {
      setting(*find_option(name), written, value);
    }
  }

 private:
  void complain(const std::string& text) { problems_.add("command line: " + text); }

  void setting(const Option& option, const std::string& written, const std::string& value) {
    if (uses(program_, option.section)) {
      line_.settings.push_back({&option, written.substr(2), value});
    } else {
      complain(fmt::format("{} has no use for {}; the sections it takes options of are: {}",
                           program_.name, written, fmt::join(program_.sections, ", ")));
    }
  }

  void unknown(const std::string& written, const std::string& name) {
    if (name.find('.') != std::string::npos) {
      problems_.add(unknown_option_text(written_name(written), " on the command line"));
      return;
    }
    std::string meant = is_known(program_, name) ? name : "";  // "-config"
    for (const std::string& section : program_.sections) {
      const Option* option = find_option(section + "." + name);
      if (meant.empty() && option != nullptr) meant = option->key();  // "--lr"
    }
    if (meant.empty()) meant = nearest(name);
    complain(meant.empty() ? fmt::format("unknown option {}; --help lists all options", written)
                           : fmt::format("unknown option {}; did you mean --{}?", written, meant));
  }

  // Among the names that may follow "--".
  std::string nearest(const std::string& name) const {
    std::vector<std::string> names = {"config", "help", "version", "print-config", "verbose"};
    for (const ProgramOption& option : program_.options) names.push_back(option.name);
    const std::string switch_name = nearest_name(name, names);
    if (!switch_name.empty()) return switch_name;
    names.clear();
    for (const Option& option : options()) {
      if (uses(program_, option.section)) names.emplace_back(option.name);
    }
    const std::string option_name = nearest_name(name, names);
    for (const Option& option : options()) {
      if (uses(program_, option.section) && option.name == option_name) return option.key();
    }
    return "";
  }

  void free_argument(const std::string& text) {
    if (program_.positional.empty()) {
      complain(fmt::format("unexpected argument '{}'{}", text,
                           text.ends_with(".ini") ? "; did you mean --config " + text + "?" : ""));
    } else {
      line_.positional.push_back(text);
    }
  }

  const Program& program_;
  CommandLine& line_;
  Problems& problems_;
};

// All names, so that Boost can tell options from unknown ones. implicit_value: take_option() has
// taken the value already, Boost must not look for it.
po::options_description describe(const Program& program) {
  po::options_description description;
  const auto declare = [&](const std::string& name) {
    description.add_options()(name.c_str(), po::value<std::string>()->implicit_value(""));
  };
  declare("config");
  for (const GeneralFlag& flag : kGeneralFlags) declare(std::string(flag.name));
  for (const ProgramOption& option : program.options) declare(normalised_key(option.name));
  for (const Option& option : options()) declare(option.key());
  return description;
}

}  // namespace

CommandLine read_command_line(int argc, const char* const* argv, const Program& program,
                              Problems& problems) {
  const std::vector<std::string> arguments(argv + std::min(argc, 1), argv + argc);
  const po::options_description description = describe(program);
  po::command_line_parser parser(arguments);
  parser.options(description)
      .style(po::command_line_style::allow_long | po::command_line_style::long_allow_adjacent)
      .extra_style_parser(
          [&](std::vector<std::string>& rest) { return take_option(program, rest); })
      .allow_unregistered();
  CommandLine line;
  Sorter sorter(program, line, problems);
  for (const po::option& option : parser.run().options) sorter.take(option);
  return line;
}

}  // namespace neox::detail
