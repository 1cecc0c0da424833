#pragma once
// What a run and its preflight set up alike.

#include "comm/communicator.h"
#include "comm/device_world.h"
#include "core/config/config.h"

namespace neox {

/// Returns when all ranks run the same version with the same configuration; otherwise every rank
/// throws the same Error, which names those that differ (check_equal). Collective.
void check_same_program(Communicator& world, const Config& config);

/// [system] as comm/ takes it.
DeviceWorldOptions device_world_options(const SystemConfig& system);

}  // namespace neox
