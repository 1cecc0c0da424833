#include "core/train/checkpoint_policy.h"

#include <algorithm>
#include <cmath>

#include "io/checkpoint/checkpoint.h"

namespace neox {
namespace {

// step = int(ratio^k) for some k >= 0.
bool is_power(double ratio, std::int64_t step) {
  if (ratio <= 1) return false;
  for (double power = 1.0; power < static_cast<double>(step) + 1.0; power *= ratio) {
    if (static_cast<std::int64_t>(power) == step) return true;
  }
  return false;
}

bool is_listed(const CheckpointConfig& config, std::int64_t step) {
  const auto& extra = config.extra_save_iters;
  return std::find(extra.begin(), extra.end(), step) != extra.end();
}

bool due_by_scale(const CheckpointConfig& config, std::int64_t step) {
  if (step == 0 || config.checkpoint_factor <= 0) return false;
  if (config.checkpoint_scale == "linear") {
    const auto factor = static_cast<std::int64_t>(config.checkpoint_factor);
    return factor > 0 && step % factor == 0;
  }
  return is_power(config.checkpoint_factor, step);
}

}  // namespace

bool checkpoint_due(const CheckpointConfig& config, std::int64_t step) {
  return is_listed(config, step) || due_by_scale(config, step);
}

bool is_milestone(const CheckpointConfig& config, std::int64_t step) {
  return is_listed(config, step) || (config.keep_every > 0 && step % config.keep_every == 0) ||
         is_power(config.keep_log, step);
}

bool saves_in_background(const CheckpointConfig& config) {
  return config.async_save && checkpoint_io_from_name(config.io) == CheckpointIo::direct;
}

double best_save_interval(double cost, double mtbf) {
  return std::sqrt(2 * cost * mtbf);
}

}  // namespace neox
