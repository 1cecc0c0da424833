#pragma once
// From the configuration to who computes what.

#include "comm/topology.h"
#include "core/config/config.h"
#include "core/model/partition.h"
#include "core/parallel/schedule.h"

namespace neox {

/// The layout of `world_size` ranks. Throws Error when they can't be divided.
ParallelLayout parallel_layout(const ParallelConfig& parallel, int world_size);

/// The part of the model that the rank at `at` holds: its slice of every layer, and the layers of
/// its stage, split so that stages cost alike, the output layer counted (layer_split.h).
ModelPartition model_partition(const Config& config, const ParallelLayout& layout,
                               const Coordinates& at);

}  // namespace neox
