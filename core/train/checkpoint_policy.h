#pragma once

#include <cstdint>

#include "core/config/config.h"

namespace neox {

/// Whether a checkpoint is due after `step` optimizer steps (0: the initial state):
/// linear: step is a multiple of checkpoint_factor; log: step = int(checkpoint_factor^k) for some k
/// >= 0; and every step of extra_save_iters.
bool checkpoint_due(const CheckpointConfig& config, std::int64_t step);

/// Whether the checkpoint of `step` stays when keep_last_n_checkpoints newer ones exist: steps of
/// extra_save_iters, multiples of keep_every, and int(keep_log^k).
bool is_milestone(const CheckpointConfig& config, std::int64_t step);

/// Whether the state is copied and written while training goes on. Not with the HDF5 driver, whose
/// writes communicate.
bool saves_in_background(const CheckpointConfig& config);

/// Seconds between saves that lose the least time when each save costs `cost` seconds and failures
/// come every `mtbf` seconds: sqrt(2 cost mtbf) (Young 1974; Daly 2006, first order).
double best_save_interval(double cost, double mtbf);

}  // namespace neox
