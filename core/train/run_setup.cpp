#include "core/train/run_setup.h"

#include <array>

#include "comm/agreement.h"
#include "core/base/version.h"
#include "core/config/describe.h"

namespace neox {

void check_same_program(Communicator& world, const Config& config) {
  const std::array<Fact, 2> facts = {
      {{"program version", version(), "install the same version on all nodes"},
       {"configuration", canonical_text(config), "start all ranks with the same command"}}};
  check_equal(world, facts);
}

DeviceWorldOptions device_world_options(const SystemConfig& system) {
  DeviceWorldOptions options;
  options.transport = system.transport == "nccl"  ? DeviceTransport::nccl
                      : system.transport == "mpi" ? DeviceTransport::mpi
                                                  : DeviceTransport::automatic;
  options.nccl.timeout_seconds = system.nccl_timeout;
  options.nccl.max_ctas = static_cast<int>(system.nccl_max_ctas);
  return options;
}

}  // namespace neox
