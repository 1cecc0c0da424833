#pragma once
// Device memory by NCCL.

#include <memory>

#include "comm/communicator.h"
#include "comm/nccl_library.h"

namespace neox {

struct NcclOptions {
  /// How long ranks are waited for while a group is made, and connections are.
  double timeout_seconds = 600;
  /// How often a thread looks for errors that NCCL found by itself; 0: only Work::wait does.
  double poll_seconds = 0.2;
  /// Most thread blocks of an operation, which then leaves the others to computation; 0: NCCL's
  /// choice.
  int max_ctas = 0;
};

/// The ranks of `control` as a group for tensors of `device`, this rank's own: no two ranks may
/// share a piece of hardware. `control` (over MPI) does the control plane and what NCCL can't do:
/// tensors on the host, reductions of 16-bit integers. Both arguments must outlive the group and
/// its splits. Collective; throws Error on every rank that came, naming those that did not come in
/// time.
///
/// Differences from MPI: NCCL may round bf16 and f16 sums after every addition, and its order of
/// addition depends on sizes and machine, not only on the ranks. The first operation of a kind
/// makes connections and waits in the call for the group's other ranks, so ranks must begin with
/// their groups in a compatible order.
///
/// An error that NCCL reports on its own ends the group: its operations are aborted, so that nobody
/// waits for them any more, and the next call or Work::wait throws it.
std::unique_ptr<Communicator> make_nccl_communicator(Communicator& control, Device device,
                                                     NcclLibrary& library,
                                                     const NcclOptions& options = {});

}  // namespace neox
