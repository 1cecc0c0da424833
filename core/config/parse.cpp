#include "core/config/parse.h"

#include <map>
#include <set>

#include <fmt/format.h>

#include "core/base/version.h"
#include "core/config/command_line.h"
#include "core/config/describe.h"
#include "core/config/ini.h"
#include "core/config/option.h"
#include "core/config/suggest.h"

namespace neox {

namespace {

using detail::CommandLine;
using detail::IniEntry;
using detail::IniFile;
using detail::Problems;

// What parsing produces, whatever the source.
struct Result {
  Config config;
  Origins origins;
  std::vector<std::string> notes;
};

void set_option(const Option& option, std::string_view written, const std::string& text,
                const std::string& origin, Result& result, Problems& problems) {
  const std::string key = option.key();
  const std::string problem = set_value(option, result.config, text);
  if (!problem.empty()) {
    problems.add(fmt::format("{}: {} = '{}': {}", origin, key, text, problem));
  }
  const std::string_view name = written.substr(written.find('.') + 1);
  if (normalised_key(name) != option.name) {
    result.notes.push_back(fmt::format("{}: '{}' is an old name; write {}", origin, name, key));
  }
  result.origins[key] = origin;
}

void apply_ini(const std::string& text, const std::string& name, Result& result,
               Problems& problems) {
  const IniFile file = detail::parse_ini(text, name, problems);
  const auto where = [&](int line) { return fmt::format("{}:{}", name, line); };
  std::set<std::string> unknown_sections;
  for (const detail::IniSection& section : file.sections) {
    if (detail::is_section(section.name) || !unknown_sections.insert(section.name).second) continue;
    problems.add(detail::unknown_section_text(section.name, " in " + where(section.line)));
  }
  std::map<const Option*, int> first_line;
  for (const IniEntry& entry : file.entries) {
    if (unknown_sections.contains(entry.key.substr(0, entry.key.find('.')))) continue;
    const Option* option = find_option(entry.key);
    if (option == nullptr) {
      problems.add(detail::unknown_option_text(entry.key, " in " + where(entry.line)));
      continue;
    }
    const auto [first, fresh] = first_line.emplace(option, entry.line);
    if (!fresh) {
      problems.add(fmt::format("{}: {} is set a second time; it was set before in line {}",
                               where(entry.line), option->key(), first->second));
      continue;
    }
    set_option(*option, entry.key, entry.value, where(entry.line), result, problems);
  }
}

// Texts that are answered without reading any configuration.
std::string immediate_answer(const CommandLine& line, const Program& program) {
  if (line.help) return help_text(program);
  if (line.version) return fmt::format("{} {}\n", program.name, version());
  if (line.print_config_docs) return render_config_markdown();
  return "";
}

}  // namespace

ParsedCommand parse_command_line(int argc, const char* const* argv, const Program& program) {
  Problems problems;
  const CommandLine line = detail::read_command_line(argc, argv, program, problems);
  ParsedCommand command;
  command.answer = immediate_answer(line, program);
  if (!command.answer.empty()) return command;

  Result result;
  for (const std::string& path : line.config_files) {
    Problems unreadable;
    const std::string text = detail::read_config_file(path, unreadable);
    if (unreadable.empty()) apply_ini(text, path, result, problems);
    problems.add_all(unreadable);
  }
  for (const detail::Setting& setting : line.settings) {
    set_option(*setting.option, setting.written, setting.value, "command line", result, problems);
  }
  problems.throw_if_any();
  if (line.verbose) result.config.logging.verbose = true;
  command.config = std::move(result.config);
  command.origins = std::move(result.origins);
  command.notes = std::move(result.notes);
  command.positional = line.positional;
  command.print_config = line.print_config;
  return command;
}

Config parse_ini_text(std::string_view text, const std::string& name) {
  Problems problems;
  Result result;
  apply_ini(std::string(text), name, result, problems);
  problems.throw_if_any();
  return result.config;
}

}  // namespace neox
