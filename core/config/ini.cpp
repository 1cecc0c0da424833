#include "core/config/ini.h"

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

#include <boost/program_options/options_description.hpp>
#include <boost/program_options/parsers.hpp>
#include <fmt/format.h>

#include "core/base/format.h"

namespace neox::detail {

namespace {

// Boost cuts a line at the first '#', wherever it stands. Where '#' belongs to a value this byte
// stands for it on the way through Boost; the file itself cannot hold it (control characters are
// refused).
constexpr char kHiddenHash = '\x01';
constexpr std::uintmax_t kLargestFile = 16u << 20;

std::string_view trim(std::string_view s) {
  const auto blank = [](char c) { return c == ' ' || c == '\t' || c == '\r'; };
  while (!s.empty() && blank(s.front())) s.remove_prefix(1);
  while (!s.empty() && blank(s.back())) s.remove_suffix(1);
  return s;
}

// The line without its comment. Quotes protect where they open a value or a list element.
std::string_view without_comment(std::string_view line) {
  bool in_quotes = false;
  char before = '=';  // the last character that is not blank
  for (std::size_t i = 0; i < line.size(); ++i) {
    const char c = line[i];
    if (in_quotes) {
      if (c == '\\') {
        ++i;
      } else if (c == '"') {
        in_quotes = false;
      }
      continue;
    }
    if (c == '"' && (before == '=' || before == ',' || before == '[')) in_quotes = true;
    const bool starts_word = i == 0 || line[i - 1] == ' ' || line[i - 1] == '\t';
    if ((c == '#' || c == ';') && starts_word) return line.substr(0, i);
    if (c != ' ' && c != '\t') before = c;
  }
  return line;
}

// What keeps the text from being an INI file at all; "" when nothing does.
std::string text_problem(std::string_view text) {
  if (text.starts_with("\xff\xfe") || text.starts_with("\xfe\xff")) {
    return "is UTF-16 text; save it as UTF-8";
  }
  int line = 1;
  for (const char c : text) {
    if (c == '\n') ++line;
    const auto u = static_cast<unsigned char>(c);
    if ((u < 0x20 && c != '\n' && c != '\r' && c != '\t') || u == 0x7f) {
      return fmt::format("is not a text file: line {} holds the control character 0x{:02x}", line,
                         u);
    }
  }
  return "";
}

// Records where each key and section stands, and writes the file down again for Boost without what
// it does not know: comments after ';', blanks inside the brackets, '#' in values.
class Scanner {
 public:
  Scanner(const std::string& name, IniFile& file, Problems& problems)
      : name_(name), file_(file), problems_(problems) {}

  void line(std::string_view text) {
    ++line_;
    text = trim(without_comment(text));
    if (text.empty()) return;
    if (text.front() == '[') {
      section(text);
    } else if (const std::size_t equals = text.find('='); equals == std::string_view::npos) {
      const bool yaml = text.find(':') != std::string_view::npos;
      problem(
          fmt::format("'{}' is neither '[section]' nor 'key = value'{}", text,
                      yaml ? " (a GPT-NeoX YAML file? see docs/config.md for the INI form)" : ""));
    } else if (const std::string_view key = trim(text.substr(0, equals)); key.empty()) {
      problem(fmt::format("there is no key before '=' in '{}'", text));
    } else {
      entry(key, trim(text.substr(equals + 1)));
    }
  }
  const std::string& for_boost() const { return for_boost_; }

 private:
  void section(std::string_view text) {
    in_bad_section_ = true;
    if (text.back() != ']') {
      problem(fmt::format("'{}' is no section: ']' is missing at the end", text));
      return;
    }
    const std::string_view section = trim(text.substr(1, text.size() - 2));
    if (section.empty() || section.find_first_of("[]#.") != std::string_view::npos) {
      problem(fmt::format("'{}' is no section: expected a name, as in [model]", text));
      return;
    }
    in_bad_section_ = false;
    file_.sections.push_back({std::string(section), line_});
    for_boost_ += fmt::format("[{}]\n", section);
  }

  void entry(std::string_view key, std::string_view value) {
    if (in_bad_section_) return;  // reported with the section
    if (key.find('#') != std::string_view::npos) {
      problem(fmt::format("'{}' is no option name", key));
      return;
    }
    file_.entries.push_back({"", "", line_});
    std::string hidden(value);
    for (char& c : hidden) {
      if (c == '#') c = kHiddenHash;
    }
    for_boost_ += fmt::format("{}={}\n", key, hidden);
  }

  void problem(const std::string& text) {
    problems_.add(fmt::format("{}:{}: {}", name_, line_, text));
  }

  const std::string& name_;
  IniFile& file_;
  Problems& problems_;
  std::string for_boost_;
  int line_ = 0;
  bool in_bad_section_ = false;
};

}  // namespace

std::string read_config_file(const std::string& path, Problems& problems) {
  namespace fs = std::filesystem;
  const auto refuse = [&](const std::string& why) {
    problems.add(fmt::format("configuration file {}: {}", path, why));
    return std::string();
  };
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (status.type() == fs::file_type::not_found) {
    return refuse("no such file; check the path given to --config");
  }
  if (fs::is_directory(status)) return refuse("is a directory; name the INI file inside it");
  if (fs::is_regular_file(status)) {
    const std::uintmax_t size = fs::file_size(path, error);
    if (!error && size > kLargestFile) {
      return refuse(fmt::format("is {} long; this is no configuration file", format_bytes(size)));
    }
  }
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  if (!file) return refuse(fmt::format("cannot be opened: {}", std::strerror(errno)));
  std::ostringstream text;
  text << file.rdbuf();
  if (file.bad() || (text.fail() && file.peek() != std::char_traits<char>::eof())) {
    return refuse(fmt::format("cannot be read: {}", std::strerror(errno)));
  }
  return text.str();
}

IniFile parse_ini(std::string_view text, const std::string& name, Problems& problems) {
  namespace po = boost::program_options;
  IniFile file;
  if (text.starts_with("\xef\xbb\xbf")) text.remove_prefix(3);
  if (const std::string problem = text_problem(text); !problem.empty()) {
    problems.add(fmt::format("configuration file {}: {}", name, problem));
    return file;
  }
  Scanner scanner(name, file, problems);
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    scanner.line(text.substr(begin, end - begin));
    begin = end + 1;
  }
  std::istringstream stream(scanner.for_boost());
  // Without registered names Boost reports every option as unregistered, in the file's order: the
  // caller knows the options, and says more about an unknown one than Boost would.
  const po::parsed_options parsed =
      po::parse_config_file(stream, po::options_description(), /*allow_unregistered=*/true);
  require(parsed.options.size() == file.entries.size(),
          "{}: {} options were found, {} expected; please report this file", name,
          parsed.options.size(), file.entries.size());
  for (std::size_t i = 0; i < parsed.options.size(); ++i) {
    file.entries[i].key = parsed.options[i].string_key;
    std::string value = parsed.options[i].value.empty() ? "" : parsed.options[i].value.front();
    for (char& c : value) {
      if (c == kHiddenHash) c = '#';
    }
    file.entries[i].value = value;
  }
  return file;
}

}  // namespace neox::detail
