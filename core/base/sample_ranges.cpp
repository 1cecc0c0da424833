#include "core/base/sample_ranges.h"

#include <algorithm>
#include <charconv>

#include <fmt/format.h>

#include "core/base/error.h"

namespace neox {
namespace {

constexpr std::int64_t kLargest = 1'000'000'000'000'000;  // sums of positions stay inside 64 bits

SampleRange parse(const std::string& word) {
  SampleRange range;
  const char* end = word.data() + word.size();
  const auto [dash, error] = std::from_chars(word.data(), end, range.first);
  if (error == std::errc() && dash != end && *dash == '-' && range.first >= 0) {
    const auto [rest, wrong] = std::from_chars(dash + 1, end, range.last);
    if (wrong == std::errc() && rest == end && range.last >= 0) {
      require(range.first <= range.last, "'{}' ends before it begins; expected {}-{}", word,
              range.last, range.first);
      require(range.last <= kLargest, "'{}' goes beyond sample {}", word, kLargest);
      return range;
    }
  }
  fail("'{}' is no range; expected first-last, two whole numbers from 0 on, as in 1000-1999", word);
}

}  // namespace

std::vector<SampleRange> parse_sample_ranges(std::span<const std::string> words) {
  std::vector<SampleRange> ranges;
  ranges.reserve(words.size());
  for (const std::string& word : words) ranges.push_back(parse(word));
  return ranges;
}

std::vector<SampleRange> merged(std::vector<SampleRange> ranges) {
  std::sort(ranges.begin(), ranges.end(),
            [](const SampleRange& a, const SampleRange& b) { return a.first < b.first; });
  std::vector<SampleRange> result;
  for (const SampleRange& range : ranges) {
    if (!result.empty() && range.first <= result.back().last + 1) {
      result.back().last = std::max(result.back().last, range.last);
    } else {
      result.push_back(range);
    }
  }
  return result;
}

std::string text_of(std::span<const SampleRange> ranges) {
  std::string text;
  for (const SampleRange& range : ranges) {
    text += fmt::format("{}{}-{}", text.empty() ? "" : ", ", range.first, range.last);
  }
  return text;
}

std::vector<SampleRange> read_sample_ranges(const std::string& text) {
  std::vector<std::string> words;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find(", ", begin), text.size());
    words.push_back(text.substr(begin, end - begin));
    begin = end + 2;
  }
  return parse_sample_ranges(words);
}

}  // namespace neox
