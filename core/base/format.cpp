#include "core/base/format.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>

#include <fmt/format.h>

namespace neox {
namespace {

template <std::size_t N>
std::string scaled(double value, double base, const std::array<const char*, N>& units) {
  std::size_t unit = 0;
  while (std::abs(value) >= base && unit + 1 < N) {
    value /= base;
    ++unit;
  }
  if (unit == 0) return fmt::format("{:g}{}", value, units[0]);
  return fmt::format("{:.{}f}{}", value,
                     std::abs(value) < 10    ? 2
                     : std::abs(value) < 100 ? 1
                                             : 0,
                     units[unit]);
}

}  // namespace

std::string format_bytes(std::uint64_t bytes) {
  static constexpr std::array units = {" B", " KiB", " MiB", " GiB", " TiB", " PiB"};
  return scaled(static_cast<double>(bytes), 1024.0, units);
}

std::string format_count(double count) {
  static constexpr std::array units = {"", " K", " M", " G", " T", " P"};
  return scaled(count, 1000.0, units);
}

std::string format_duration(double seconds) {
  if (!std::isfinite(seconds)) return "--:--";
  if (seconds < 1.0) return fmt::format("{:.3g} ms", seconds * 1e3);
  const auto total = static_cast<std::int64_t>(std::llround(seconds));
  const std::int64_t h = total / 3600, m = total / 60 % 60, s = total % 60;
  if (h > 0) return fmt::format("{}:{:02}:{:02}", h, m, s);
  return fmt::format("{}:{:02}", m, s);
}

std::string format_grouped(std::int64_t value) {
  std::string digits = fmt::format("{}", value);
  for (std::ptrdiff_t i = static_cast<std::ptrdiff_t>(digits.size()) - 3; i > (value < 0 ? 1 : 0);
       i -= 3) {
    digits.insert(static_cast<std::size_t>(i), ",");
  }
  return digits;
}

std::vector<std::string> split_words(std::string_view text) {
  std::vector<std::string> all;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find(' '), text.size());
    if (end > 0) all.emplace_back(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return all;
}

}  // namespace neox
