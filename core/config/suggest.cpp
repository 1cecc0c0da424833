#include "core/config/suggest.h"

#include <algorithm>

#include <fmt/format.h>

#include "core/config/option.h"

namespace neox::detail {

namespace {

char folded(char c) {
  if (c == '-') return '_';
  return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
}

// Names of one section (all of them when empty), as "name" or "section.name".
std::vector<std::string> names_of(std::string_view section, bool with_section) {
  std::vector<std::string> names;
  for (const Option& option : options()) {
    if (!section.empty() && option.section != section) continue;
    names.push_back(with_section ? option.key() : std::string(option.name));
  }
  return names;
}

// Sections that have an option of this name, current or deprecated: "[optimizer]".
std::string sections_with(std::string_view name) {
  std::string found;
  for (const Section& section : sections()) {
    if (find_option(fmt::format("{}.{}", section.name, name)) == nullptr) continue;
    found += fmt::format("{}[{}]", found.empty() ? "" : " or ", section.name);
  }
  return found;
}

// The option whose plain name is closest to `name`, whatever its section; "section.name" or "".
std::string nearest_anywhere(std::string_view name) {
  const std::string nearest = nearest_name(name, names_of("", false));
  for (const Option& option : options()) {
    if (option.name == nearest) return option.key();
  }
  return "";
}

// "did you mean [model]?", or which sections there are.
std::string section_hint(std::string_view section) {
  std::vector<std::string> names;
  for (const Section& s : sections()) names.emplace_back(s.name);
  const std::string nearest = nearest_name(section, names);
  return nearest.empty() ? fmt::format("sections are {}", fmt::join(names, ", "))
                         : fmt::format("did you mean [{}]?", nearest);
}

}  // namespace

std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> before(b.size() + 1), last(b.size() + 1), now(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) last[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    now[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const bool same = folded(a[i - 1]) == folded(b[j - 1]);
      now[j] = std::min({last[j] + 1, now[j - 1] + 1, last[j - 1] + (same ? 0 : 1)});
      if (i > 1 && j > 1 && folded(a[i - 1]) == folded(b[j - 2]) &&
          folded(a[i - 2]) == folded(b[j - 1])) {
        now[j] = std::min(now[j], before[j - 2] + 1);
      }
    }
    std::swap(before, last);
    std::swap(last, now);
  }
  return last[b.size()];
}

std::string nearest_name(std::string_view name, const std::vector<std::string>& candidates) {
  std::string best;
  std::size_t best_distance = std::max<std::size_t>(1, name.size() / 3) + 1;
  for (const std::string& candidate : candidates) {
    std::size_t distance = edit_distance(name, candidate);
    // A forgotten end or beginning ("num_attention" for num_attention_heads) is a likely slip, too.
    if (name.size() >= 4 &&
        normalised_key(candidate).find(normalised_key(name)) != std::string::npos) {
      distance = std::min<std::size_t>(distance, 2);
    }
    if (distance < best_distance) {
      best = candidate;
      best_distance = distance;
    }
  }
  return best;
}

bool is_section(std::string_view name) {
  return std::any_of(sections().begin(), sections().end(),
                     [&](const Section& s) { return s.name == name; });
}

std::string unknown_section_text(std::string_view section, const std::string& where) {
  return fmt::format("unknown section [{}]{}; {}", section, where, section_hint(section));
}

std::string unknown_option_text(std::string_view key, const std::string& where) {
  const std::size_t dot = key.find('.');
  const std::string section(dot == std::string_view::npos ? "" : key.substr(0, dot));
  const std::string name =
      normalised_key(dot == std::string_view::npos ? key : key.substr(dot + 1));
  const std::string what = fmt::format("unknown option '{}'{}", key, where);
  if (dot != std::string_view::npos && !is_section(section)) {
    return fmt::format("{}: there is no section [{}]; {}", what, section, section_hint(section));
  }
  if (const std::string homes = sections_with(name); !homes.empty()) {
    return section.empty() ? fmt::format("{}; '{}' belongs to section {}", what, name, homes)
                           : fmt::format("{}; '{}' belongs to section {}, not [{}]", what, name,
                                         homes, section);
  }
  if (const auto advice = absent_option_advice(name); !advice.empty()) {
    return fmt::format("{}: this option of GPT-NeoX does not exist here; {}", what, advice);
  }
  if (!section.empty()) {
    const std::string nearest = nearest_name(name, names_of(section, false));
    if (!nearest.empty()) return fmt::format("{}; did you mean '{}'?", what, nearest);
  }
  const std::string nearest = nearest_anywhere(name);
  if (!nearest.empty()) return fmt::format("{}; did you mean '{}'?", what, nearest);
  return what + "; docs/config.md lists all options";
}

}  // namespace neox::detail
