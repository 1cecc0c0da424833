#include "core/train/checkpoint_policy.h"

#include <algorithm>
#include <cmath>

namespace neox {
namespace {

bool due_by_scale(const CheckpointConfig& config, std::int64_t step) {
  if (step == 0 || config.checkpoint_factor <= 0) return false;
  if (config.checkpoint_scale == "linear") {
    const auto factor = static_cast<std::int64_t>(config.checkpoint_factor);
    return factor > 0 && step % factor == 0;
  }
  for (double power = 1.0; power < static_cast<double>(step) + 1.0;
       power *= config.checkpoint_factor) {
    if (static_cast<std::int64_t>(power) == step) return true;
  }
  return false;
}

}  // namespace

bool checkpoint_due(const CheckpointConfig& config, std::int64_t step) {
  const auto& extra = config.extra_save_iters;
  return std::find(extra.begin(), extra.end(), step) != extra.end() || due_by_scale(config, step);
}

}  // namespace neox
