#include "core/train/guard_state.h"

#include <charconv>
#include <iterator>
#include <utility>

#include <fmt/format.h>

#include "core/base/error.h"

namespace neox {

// What `before` knew of rewinds may be newer than the checkpoint.
void note_rewind(const GuardState& before, std::span<const SampleRange> samples,
                 GuardState& state) {
  std::vector<SampleRange> all = before.rewound_samples;
  all.insert(all.end(), samples.begin(), samples.end());
  state.rewound_samples = merged(std::move(all));
  state.rewinds = before.rewinds + 1;
}

// The shortest decimal numbers that are read back to the same bits.
std::string window_text(const GuardState& state) {
  std::string text;
  for (std::size_t i = 0; i < state.losses.size(); ++i) {
    fmt::format_to(std::back_inserter(text), "{} {}\n", state.losses[i], state.grad_norms[i]);
  }
  return text;
}

void read_window(const std::string& text, GuardState& state) {
  state.losses.clear();
  state.grad_norms.clear();
  const char* at = text.data();
  const char* const end = text.data() + text.size();
  const auto number = [&](char after) {
    double value = 0;
    const auto [rest, error] = std::from_chars(at, end, value);
    require(error == std::errc() && rest != end && *rest == after,
            "the window of losses and gradient norms in the checkpoint is damaged at byte {}",
            at - text.data());
    at = rest + 1;
    return value;
  };
  while (at != end) {
    state.losses.push_back(number(' '));
    state.grad_norms.push_back(number('\n'));
  }
}

}  // namespace neox
