#pragma once
// What a run's numerical guards remember from step to step, and in checkpoints.

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/base/sample_ranges.h"

namespace neox {

struct GuardState {
  /// The latest steps that were neither skipped nor a spike, oldest first: mean loss per token, and
  /// gradient norm before clipping. Empty unless spikes are looked for.
  std::vector<double> losses{}, grad_norms{};
  std::int64_t in_a_row = 0;         ///< the latest steps, which changed nothing
  std::int64_t spikes_in_a_row = 0;  ///< of them, those with finite numbers
  std::int64_t skipped_steps = 0;    ///< of the run: steps that changed nothing
  std::int64_t rewinds = 0;
  std::vector<SampleRange> rewound_samples{};  ///< left out since; merged
  friend bool operator==(const GuardState&, const GuardState&) = default;
};

/// The run went back from `before` to `state`, which was loaded, and leaves `samples` out from now
/// on.
void note_rewind(const GuardState& before, std::span<const SampleRange> samples, GuardState& state);

/// A line "loss norm" per step of the window; read back bit for bit.
std::string window_text(const GuardState& state);
/// Fills the window from a text; throws Error when it is none.
void read_window(const std::string& text, GuardState& state);

}  // namespace neox
