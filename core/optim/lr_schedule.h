#pragma once
// The learning rate of each optimizer step.

#include <cstdint>

#include "core/config/config.h"

namespace neox {

/// A pure function of the step. With N = the schedule's length (lr_decay_iters, else
/// floor(train_iters * lr_decay_fraction)), w = warmup * N (not rounded), k = optimizer steps done
/// (0 for the first), E = N - w and x = min(1, (k - w) / E):
// clang-format off
///   warm-up      k <= w   lr min(1, max(1, k) / w)                 steps 0 and 1 both lr / w
///   constant              lr
///   linear                lr (1 - x)                               aims at 0, flat once it meets min_lr
///   cosine                min_lr + (lr - min_lr)(1 + cos(pi x)) / 2
///   exponential           lr exp(-0.693 x)                         ends near lr / 2
///   inverse_sqrt          lr sqrt(max(1, w) / k)                   half of lr at k = 4 w
///   wsd                   lr until N - D, D = wsd_decay_fraction N, then
///                         min_lr + (lr - min_lr)(1 - sqrt((k - (N - D)) / D))
// clang-format on
/// After the warm-up nothing is below min_lr. From k = N on the value of k = N stays. These are
/// GPT-NeoX's formulas (its cosine rises again after N), inverse_sqrt is Megatron-LM's; the 1 -
/// sqrt cool-down of wsd is the one that beat linear in Haegele et al. 2024 (arXiv:2405.18392,
/// section 3).
class LrSchedule {
 public:
  /// Throws Error naming the option when values contradict (min_lr > lr, unknown style, ...).
  LrSchedule(const ScheduleConfig& config, double lr, std::int64_t train_iters);

  double at(std::int64_t steps_done) const;
  /// N: steps until the learning rate stops changing.
  std::int64_t length() const { return length_; }

 private:
  enum class Style : std::uint8_t { constant, linear, cosine, exponential, inverse_sqrt, wsd };
  static Style parse_style(const std::string& name);

  Style style_;
  double lr_, min_lr_;
  std::int64_t length_ = 0;
  double warmup_steps_ = 0;
  double decay_start_ = 0;  // w, or N - D for wsd
};

}  // namespace neox
