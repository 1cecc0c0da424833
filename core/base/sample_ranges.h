#pragma once
// Ranges of training samples, by their place in the run's order of samples.

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace neox {

/// Samples first ... last, both included.
struct SampleRange {
  std::int64_t first = 0;
  std::int64_t last = 0;
  friend bool operator==(const SampleRange&, const SampleRange&) = default;
};

/// "100-199" for each. Throws Error saying what of a word was expected instead.
std::vector<SampleRange> parse_sample_ranges(std::span<const std::string> words);

/// The same samples as ranges that neither touch nor overlap, in ascending order.
std::vector<SampleRange> merged(std::vector<SampleRange> ranges);

/// "100-199, 300-300", as data.skip_sample_ranges takes it.
std::string text_of(std::span<const SampleRange> ranges);
/// The ranges of such a text.
std::vector<SampleRange> read_sample_ranges(const std::string& text);

}  // namespace neox
