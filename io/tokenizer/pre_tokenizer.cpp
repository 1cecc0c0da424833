#include "io/tokenizer/pre_tokenizer.h"

#include <algorithm>

namespace neox {
namespace {

struct Range {
  std::size_t begin, end;
  bool match;
};

// All of the text as alternating matches and the parts between them.
void find_ranges(std::string_view text, const Regex& pattern, bool invert, Regex::Matcher& matcher,
                 std::vector<Range>& ranges) {
  std::size_t done = 0, from = 0, begin = 0, end = 0;
  while (from <= text.size() && pattern.find(text, from, matcher, begin, end)) {
    if (done < begin) ranges.push_back({done, begin, invert});
    if (begin < end) ranges.push_back({begin, end, !invert});
    done = from = end;
    if (begin == end) {  // an empty match: on to the next character
      do {
        ++from;
      } while (from < text.size() && (static_cast<unsigned char>(text[from]) & 0xC0) == 0x80);
    }
  }
  if (done < text.size()) ranges.push_back({done, text.size(), invert});
}

}  // namespace

void SplitStep::split(std::string_view text, Regex::Matcher& matcher,
                      std::vector<std::string_view>& parts) const {
  thread_local std::vector<Range> ranges;
  ranges.clear();
  find_ranges(text, pattern_, invert_, matcher, ranges);
  const std::size_t first_part = parts.size();
  const auto append = [&](const Range& range) {
    parts.push_back(text.substr(range.begin, range.end - range.begin));
  };
  const auto grow_last = [&](const Range& range) {
    parts.back() = {parts.back().data(), parts.back().size() + (range.end - range.begin)};
  };
  bool previous = false;
  switch (behavior_) {
    case SplitBehavior::isolated:
      std::for_each(ranges.begin(), ranges.end(), append);
      break;
    case SplitBehavior::removed:
      for (const Range& range : ranges) {
        if (!range.match) append(range);
      }
      break;
    case SplitBehavior::contiguous:
      for (const Range& range : ranges) {
        range.match == previous&& parts.size() > first_part ? grow_last(range) : append(range);
        previous = range.match;
      }
      break;
    case SplitBehavior::merged_with_previous:
      for (const Range& range : ranges) {
        range.match && !previous && parts.size() > first_part ? grow_last(range) : append(range);
        previous = range.match;
      }
      break;
    case SplitBehavior::merged_with_next:
      std::for_each(ranges.begin(), ranges.end(), append);
      for (std::size_t i = ranges.size();
           i-- > 0;) {  // a match joins what follows, unless that is one
        const bool joins = ranges[i].match && i + 1 < ranges.size() && !ranges[i + 1].match;
        if (!joins) continue;
        std::string_view& part = parts[first_part + i];
        part = {part.data(), part.size() + parts[first_part + i + 1].size()};
        parts[first_part + i + 1] = {};
      }
      std::erase_if(parts, [](std::string_view part) { return part.empty(); });
      break;
  }
}

}  // namespace neox
