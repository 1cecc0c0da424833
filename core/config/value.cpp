// Values between text and fields: the grammar of what stands right of '=' in an INI file.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>

#include <fmt/format.h>

#include "core/config/option.h"

namespace neox {

namespace {

template <class T>
inline constexpr bool is_list = false;
template <class T>
inline constexpr bool is_list<std::vector<T>> = true;

template <class T>
using Getter = T& (*)(Config&);

// Reads a field of a const Config: the accessors are written for setting.
template <class T>
const T& read(Getter<T> get, const Config& config) {
  return get(const_cast<Config&>(config));
}

std::string_view trim(std::string_view s) {
  while (!s.empty() && (s.front() == ' ' || s.front() == '\t')) s.remove_prefix(1);
  while (!s.empty() && (s.back() == ' ' || s.back() == '\t')) s.remove_suffix(1);
  return s;
}

std::string lower(std::string_view s) {
  std::string text(s);
  for (char& c : text) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return text;
}

int hex_digit(char c) {
  const std::size_t i = std::string_view("0123456789abcdef").find(lower({&c, 1}));
  return i == std::string_view::npos ? -1 : static_cast<int>(i);
}

// "..." with the escapes \n \t \r \" \\ \xHH; anything else is taken as it stands. `problem` is set
// when the quotes or escapes are malformed.
std::string unquote(std::string_view text, std::string& problem) {
  if (text.empty() || text.front() != '"') return std::string(text);
  std::string out;
  for (std::size_t i = 1; i < text.size(); ++i) {
    if (text[i] == '"') {
      if (i + 1 != text.size()) problem = "there is text after the closing quote";
      return out;
    }
    if (text[i] != '\\') {
      out += text[i];
      continue;
    }
    const char c = ++i < text.size() ? text[i] : '\0';
    constexpr std::string_view kNames = "ntr\"\\", kMeanings = "\n\t\r\"\\";
    if (const std::size_t known = kNames.find(c); known != std::string_view::npos) {
      out += kMeanings[known];
    } else if (c == 'x' && i + 2 < text.size() && hex_digit(text[i + 1]) >= 0 &&
               hex_digit(text[i + 2]) >= 0) {
      out += static_cast<char>(hex_digit(text[i + 1]) * 16 + hex_digit(text[i + 2]));
      i += 2;
    } else {
      problem = "unknown escape after '\\' (known: \\n \\t \\r \\\" \\\\ \\xHH)";
      return out;
    }
  }
  problem = "the closing quote is missing";
  return out;
}

std::string quoted(std::string_view s) {
  std::string out = "\"";
  for (const char c : s) {
    switch (c) {
      case '\n':
        out += "\\n";
        break;
      case '\t':
        out += "\\t";
        break;
      case '\r':
        out += "\\r";
        break;
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      default:
        if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
          out += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
        } else {
          out += c;
        }
    }
  }
  return out + "\"";
}

// Spelling that unquote() takes back inside an INI line; `in_list` also protects what lists give
// meaning.
std::string string_text(const std::string& s, bool in_list) {
  const bool control = std::any_of(
      s.begin(), s.end(), [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; });
  const bool plain = !control && trim(s).size() == s.size() && s.find('"') == std::string::npos &&
                     s.find('#') == std::string::npos && s.find(';') == std::string::npos &&
                     !(in_list && (s.empty() || s.find_first_of(",[]") != std::string::npos));
  return plain ? s : quoted(s);
}

// Cuts at commas outside of quotes; surrounding [ ] as in GPT-NeoX's YAML are allowed.
std::vector<std::string_view> list_elements(std::string_view text) {
  text = trim(text);
  if (text.size() >= 2 && text.front() == '[' && text.back() == ']') {
    text = trim(text.substr(1, text.size() - 2));
  }
  std::vector<std::string_view> elements;
  if (text.empty()) return elements;
  std::size_t begin = 0;
  bool in_quotes = false;
  for (std::size_t i = 0; i <= text.size(); ++i) {
    if (i < text.size() && in_quotes && text[i] == '\\') {
      ++i;
    } else if (i < text.size() && text[i] == '"' &&
               (in_quotes || trim(text.substr(begin, i - begin)).empty())) {
      in_quotes = !in_quotes;
    } else if (i >= text.size() || (text[i] == ',' && !in_quotes)) {
      elements.push_back(trim(text.substr(begin, i - begin)));
      begin = i + 1;
    }
  }
  if (begin < text.size()) elements.push_back(trim(text.substr(begin)));
  return elements;
}

std::optional<bool> parse_bool(std::string_view text) {
  const std::string word = lower(text);
  if (word == "true" || word == "yes" || word == "on" || word == "1") return true;
  if (word == "false" || word == "no" || word == "off" || word == "0") return false;
  return std::nullopt;
}

template <class T>
std::optional<T> parse_number(std::string_view text) {
  if (!text.empty() && text.front() == '+') text.remove_prefix(1);
  T value{};
  const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || rest != text.data() + text.size()) return std::nullopt;
  if constexpr (std::is_floating_point_v<T>) {
    if (!std::isfinite(value)) return std::nullopt;
  }
  return value;
}

// One scalar into `out`; returns "" or the problem. A string may not be one of the choices.
template <class T>
std::string parse_scalar(const Option& option, std::string_view text, T& out) {
  const std::string expected = "expected " + expected_text(option);
  if constexpr (std::is_same_v<T, bool>) {
    const auto value = parse_bool(text);
    if (!value) return expected;
    out = *value;
  } else if constexpr (std::is_same_v<T, std::string>) {
    std::string problem;
    out = unquote(text, problem);
    return problem;
  } else {
    const auto value = parse_number<T>(text);
    if (!value || !option.range.contains(static_cast<double>(*value))) return expected;
    out = *value;
  }
  return "";
}

template <class T>
std::string parse_list(const Option& option, std::string_view text, std::vector<T>& out) {
  std::vector<T> values;
  for (const std::string_view element : list_elements(text)) {
    if (element.empty()) return "an element is empty; expected " + expected_text(option);
    T value{};
    const std::string problem = parse_scalar(option, element, value);
    if (!problem.empty()) return fmt::format("element '{}': {}", element, problem);
    values.push_back(std::move(value));
  }
  const bool nothing = values.empty() && default_text(option).empty();
  if (option.list_size != 0 && values.size() != option.list_size && !nothing) {
    return fmt::format("{} given; expected {}", values.size(), expected_text(option));
  }
  out = std::move(values);
  return "";
}

// The choice that `text` spells, nullptr: none.
const Choice* find_choice(const Option& option, std::string_view text) {
  const std::string word = lower(text);
  if (word.empty()) return nullptr;
  for (const Choice& choice : option.choices) {
    if (lower(choice.word) == word) return &choice;
    const std::string aliases = fmt::format(" {} ", choice.aliases);
    if (word.find(' ') == std::string::npos &&
        aliases.find(" " + word + " ") != std::string::npos) {
      return &choice;
    }
  }
  return nullptr;
}

template <class T>
std::string scalar_text(const T& value, bool in_list) {
  if constexpr (std::is_same_v<T, std::string>) {
    return string_text(value, in_list);
  } else if constexpr (std::is_same_v<T, bool>) {
    return value ? "true" : "false";
  } else {
    return fmt::format("{}", value);  // the shortest text that reads back as the same double
  }
}

std::string_view scalar_name(const Option& option) {
  return std::visit(
      [](auto get) -> std::string_view {
        if constexpr (std::is_same_v<decltype(get), WordField>) {
          return "word";
        } else {
          using T = std::remove_reference_t<std::invoke_result_t<decltype(get), Config&>>;
          if constexpr (std::is_same_v<T, bool>) return "bool";
          if constexpr (std::is_same_v<T, std::int64_t>) return "int";
          if constexpr (std::is_same_v<T, double>) return "float";
          if constexpr (std::is_same_v<T, std::string>) return "string";
          if constexpr (std::is_same_v<T, std::vector<std::int64_t>>) return "list of int";
          if constexpr (std::is_same_v<T, std::vector<double>>) return "list of float";
          if constexpr (std::is_same_v<T, std::vector<std::string>>) return "list of string";
        }
      },
      option.field);
}

}  // namespace

std::string type_text(const Option& option) {
  return std::string(option.choices.empty() ? scalar_name(option) : "word");
}

std::string expected_text(const Option& option) {
  if (!option.choices.empty()) {
    std::string words;
    for (const Choice& choice : option.choices) {
      words += fmt::format("{}{}", words.empty() ? "" : ", ", choice.word);
    }
    return option.choices.size() == 1 ? words : "one of " + words;
  }
  const std::string type = type_text(option);
  const std::string range = option.range.text();
  const auto with_range = [&](std::string text) {
    return range.empty() ? text : text + ", " + range;
  };
  if (type == "bool") return "true or false";
  if (type == "int") return with_range("a whole number");
  if (type == "float") return with_range("a number");
  if (type == "string") return "text";
  const std::string what = type == "list of int"     ? "whole numbers"
                           : type == "list of float" ? "numbers"
                                                     : "texts";
  return with_range(option.list_size != 0
                        ? fmt::format("{} {} separated by commas", option.list_size, what)
                        : fmt::format("{} separated by commas", what));
}

std::string value_text(const Option& option, const Config& config) {
  return std::visit(
      [&](auto get) -> std::string {
        if constexpr (std::is_same_v<decltype(get), WordField>) {
          return std::string(get.get(config));
        } else {
          const auto& value = read(get, config);
          if constexpr (is_list<std::remove_cvref_t<decltype(value)>>) {
            std::string text;
            for (const auto& element : value) {
              text += (text.empty() ? "" : ", ") + scalar_text(element, true);
            }
            return text;
          } else {
            return scalar_text(value, false);
          }
        }
      },
      option.field);
}

std::string default_text(const Option& option) {
  static const Config defaults;
  return value_text(option, defaults);
}

std::string set_value(const Option& option, Config& config, std::string_view text) {
  text = trim(text);
  if (!option.choices.empty()) {
    const Choice* choice = find_choice(option, text);
    if (choice == nullptr) return "expected " + expected_text(option);
    if (const auto* word = std::get_if<WordField>(&option.field)) {
      word->set(config, choice->word);
    } else {
      std::get<Getter<std::string>>(option.field)(config) = choice->word;
    }
    return "";
  }
  const std::string problem = std::visit(
      [&](auto get) -> std::string {
        if constexpr (std::is_same_v<decltype(get), WordField>) {
          return "has no choices";  // the table's test excludes this
        } else {
          auto& field = get(config);
          if constexpr (is_list<std::remove_cvref_t<decltype(field)>>) {
            return parse_list(option, text, field);
          } else {
            return parse_scalar(option, text, field);
          }
        }
      },
      option.field);
  if (!problem.empty() || option.validate == nullptr) return problem;
  return option.validate(config);
}

}  // namespace neox
