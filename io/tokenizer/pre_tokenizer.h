#pragma once
// Pre-tokenizers of tokenizer.json: they cut a text into the words that are merged one by one.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "io/tokenizer/regex.h"

namespace neox {

/// What happens to a match and to the text around it (Hugging Face's names).
enum class SplitBehavior : std::uint8_t {
  removed,
  isolated,
  merged_with_previous,
  merged_with_next,
  contiguous
};

/// One splitting step: a pattern and a behavior.
class SplitStep {
 public:
  /// `invert`: what lies between the matches counts as the match.
  SplitStep(Regex pattern, SplitBehavior behavior, bool invert)
      : pattern_(std::move(pattern)), behavior_(behavior), invert_(invert) {}

  /// Appends the parts of `text` to `parts`; none is empty.
  void split(std::string_view text, Regex::Matcher& matcher,
             std::vector<std::string_view>& parts) const;

 private:
  Regex pattern_;
  SplitBehavior behavior_;
  bool invert_;
};

/// The splitting steps before the byte-level one, and that one's settings.
struct PreTokenizer {
  std::vector<SplitStep> steps;
  bool gpt2_pattern = false;      ///< the byte-level step cuts with GPT-2's pattern
  bool add_prefix_space = false;  ///< and first puts a space before a piece that has none
};

}  // namespace neox
