#pragma once
// Which GPU a rank takes, and which group its tensors go through.

#include <memory>
#include <string>

#include "comm/nccl_communicator.h"

namespace neox {

/// The device of `kind` that this rank takes: its rank on the node counts through those that the
/// process sees, from the front again when ranks outnumber them; so also the only one that a
/// launcher shows each rank. `node`: the ranks of the node (MpiEnvironment::node()). The runtime of
/// `kind` must be registered.
Device choose_device(const Communicator& node, DeviceKind kind);

enum class DeviceTransport : std::uint8_t {
  automatic,  ///< NCCL for CUDA devices when every rank has it and a GPU of its own, else MPI
  nccl,       ///< NCCL, or an Error that says what is missing
  mpi         ///< through page-locked host memory and MPI: any number of ranks on one GPU
};

struct DeviceWorldOptions {
  DeviceTransport transport = DeviceTransport::automatic;
  NcclOptions nccl = {};
  /// For tests of NCCL with several ranks on one GPU, which it accepts when NCCL_HOSTID differs.
  bool may_share_devices = false;
  /// Tests put another one here; null: NCCL itself.
  NcclLibrary* library = nullptr;
};

/// The group that a job trains with, over the ranks of `world`.
class DeviceWorld {
 public:
  /// `device`: this rank's. `node`: the ranks of its node. Both groups must outlive this.
  /// Collective; throws the same Error everywhere.
  DeviceWorld(Communicator& world, Communicator& node, Device device,
              const DeviceWorldOptions& options = {});

  /// For Engine, Topology and others: `world` itself, or a group over it.
  Communicator& group() const { return nccl_ != nullptr ? *nccl_ : world_; }
  /// One line for the log: "NCCL 2.28.9", "MPI through host memory, because ranks 0 and 1 of ...".
  const std::string& description() const { return description_; }

 private:
  Communicator& world_;
  std::unique_ptr<Communicator> nccl_;
  std::string description_;
};

}  // namespace neox
