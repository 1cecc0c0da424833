#pragma once

#include <cstdint>

#include "core/config/config.h"

namespace neox {

/// Whether a checkpoint is due after `step` optimizer steps (0: the initial state):
/// linear: step is a multiple of checkpoint_factor; log: step = int(checkpoint_factor^k) for some k
/// >= 0; and every step of extra_save_iters.
bool checkpoint_due(const CheckpointConfig& config, std::int64_t step);

}  // namespace neox
