#include "core/optim/loss_scaler.h"

#include <algorithm>
#include <cmath>

namespace neox {

LossScaler::LossScaler(const PrecisionConfig& config, LossScalerState& state)
    : config_(config), state_(state) {
  const std::int64_t overflow_steps = state.overflow_steps;
  if (!active()) {
    state_ = {};
  } else if (!config_.scales_dynamically()) {
    state_ = {};
    state_.scale = config_.loss_scale;
  } else if (state.dynamic) {
    // The options may have changed since.
    state_.scale = std::clamp(state.scale, config_.min_loss_scale, kMaxLossScale);
    state_.hysteresis = std::clamp<std::int64_t>(state.hysteresis, 1, config_.hysteresis);
  } else {
    state_ = {};
    state_.scale = std::ldexp(1.0, static_cast<int>(config_.initial_scale_power));
    state_.hysteresis = config_.hysteresis;
    state_.dynamic = true;
  }
  state_.overflow_steps = overflow_steps;
}

LossScaler::Verdict LossScaler::end_step(double loss, double grad_norm) {
  if (!std::isfinite(loss)) return Verdict::other;
  if (std::isfinite(grad_norm)) {
    if (state_.dynamic) grow();
    return Verdict::fine;
  }
  if (!state_.dynamic) return Verdict::other;
  if (!shrink()) return Verdict::stop;
  ++state_.overflow_steps;
  return Verdict::overflow;
}

void LossScaler::grow() {
  if (config_.consecutive_hysteresis) state_.hysteresis = config_.hysteresis;
  if (++state_.good_steps % config_.loss_scale_window != 0) return;
  state_.hysteresis = config_.hysteresis;
  state_.scale = std::min(2.0 * state_.scale, kMaxLossScale);
}

// False: it cannot.
bool LossScaler::shrink() {
  state_.good_steps = 0;
  if (state_.hysteresis > 1) {
    --state_.hysteresis;
    return true;
  }
  if (state_.scale <= config_.min_loss_scale) return false;
  state_.scale = std::max(0.5 * state_.scale, config_.min_loss_scale);
  return true;
}

}  // namespace neox
