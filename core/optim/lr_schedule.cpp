#include "core/optim/lr_schedule.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>
#include <string_view>
#include <utility>

#include "core/base/error.h"

namespace neox {
namespace {

// GPT-NeoX writes -0.693, not -ln 2.
constexpr double kExponentialRate = 0.693;

std::int64_t schedule_length(const ScheduleConfig& config, std::int64_t train_iters) {
  require(config.lr_decay_iters >= 0, "schedule.lr_decay_iters is {}: it must not be negative",
          config.lr_decay_iters);
  if (config.lr_decay_iters > 0) return config.lr_decay_iters;
  const double fraction = config.lr_decay_fraction;
  require(fraction > 0 && fraction <= 1,
          "schedule.lr_decay_fraction is {}: it must be above 0 and at most 1", fraction);
  const auto steps =
      static_cast<std::int64_t>(std::floor(static_cast<double>(train_iters) * fraction));
  require(steps > 0,
          "the learning-rate schedule has no steps: set train.train_iters or "
          "schedule.lr_decay_iters (train_iters {}, lr_decay_fraction {})",
          train_iters, fraction);
  return steps;
}

}  // namespace

LrSchedule::Style LrSchedule::parse_style(const std::string& name) {
  static constexpr std::array<std::pair<std::string_view, Style>, 6> kStyles = {{
      {"constant", Style::constant},
      {"linear", Style::linear},
      {"cosine", Style::cosine},
      {"exponential", Style::exponential},
      {"inverse_sqrt", Style::inverse_sqrt},
      {"wsd", Style::wsd},
  }};
  for (const auto& [text, style] : kStyles) {
    if (name == text) return style;
  }
  fail(
      "schedule.lr_decay_style is '{}': it must be constant, linear, cosine, exponential, "
      "inverse_sqrt or wsd",
      name);
}

LrSchedule::LrSchedule(const ScheduleConfig& config, double lr, std::int64_t train_iters)
    : style_(parse_style(config.lr_decay_style)),
      lr_(lr),
      min_lr_(config.min_lr),
      length_(schedule_length(config, train_iters)) {
  require(std::isfinite(lr) && lr > 0, "optimizer.lr is {}: it must be above 0", lr);
  require(min_lr_ >= 0 && min_lr_ <= lr,
          "schedule.min_lr is {}: it must lie between 0 and optimizer.lr, which is {}", min_lr_,
          lr);
  require(config.warmup >= 0 && config.warmup <= 1,
          "schedule.warmup is {}: it is a share of the schedule, from 0 to 1", config.warmup);
  const auto length = static_cast<double>(length_);
  warmup_steps_ = config.warmup * length;
  decay_start_ = warmup_steps_;
  if (style_ == Style::wsd) {
    const double share = config.wsd_decay_fraction;
    require(share >= 0 && share + config.warmup <= 1 + 1e-9,
            "schedule.wsd_decay_fraction is {} and schedule.warmup {}: shares of the run that "
            "must not be negative or add up to more than 1",
            share, config.warmup);
    decay_start_ = std::max(warmup_steps_, length - share * length);
  }
}

double LrSchedule::at(std::int64_t steps_done) const {
  const auto k = static_cast<double>(std::clamp<std::int64_t>(steps_done, 0, length_));
  if (warmup_steps_ > 0 && k <= warmup_steps_) {
    return lr_ * std::min(1.0, std::max(1.0, k) / warmup_steps_);
  }
  const double decay_steps = static_cast<double>(length_) - decay_start_;
  const double x = decay_steps > 0 ? std::max(0.0, (k - decay_start_) / decay_steps) : 0.0;
  double lr = lr_;
  switch (style_) {
    case Style::constant:
      break;
    case Style::linear:
      lr = lr_ * (1 - x);
      break;
    case Style::cosine:
      lr = min_lr_ + (lr_ - min_lr_) * (1 + std::cos(std::numbers::pi * x)) / 2;
      break;
    case Style::exponential:
      lr = lr_ * std::exp(-kExponentialRate * x);
      break;
    case Style::inverse_sqrt:
      lr = lr_ * std::sqrt(std::max(1.0, warmup_steps_) / std::max(1.0, k));
      break;
    case Style::wsd:
      lr = min_lr_ + (lr_ - min_lr_) * (1 - std::sqrt(x));
      break;
  }
  return std::clamp(lr, min_lr_, lr_);  // rounding, too, stays inside
}

}  // namespace neox
