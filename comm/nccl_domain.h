#pragma once
// What the NCCL groups of a process share, and how a group comes into being. Private to
// comm/nccl_*.

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "comm/abort_hooks.h"
#include "comm/nccl_communicator.h"

namespace neox {

/// A group that is looked after. Both run in threads of their own.
class NcclWatched {
 public:
  virtual ~NcclWatched() = default;
  /// Looks for errors and for operations that don't end.
  virtual void inspect() = 0;
  /// The job ends: aborts without waiting for locks.
  virtual void abort_now() = 0;
};

/// The library, the device, and the thread that polls the groups.
class NcclDomain {
 public:
  NcclDomain(NcclLibrary& nccl, Device on, const NcclOptions& with);
  ~NcclDomain();
  NcclDomain(const NcclDomain&) = delete;
  NcclDomain& operator=(const NcclDomain&) = delete;

  void add(NcclWatched& group);
  /// Afterwards nothing looks at it any more.
  void remove(NcclWatched& group);

  /// Throws Error with the call, the group, NCCL's names and its last error unless `code` is
  /// success; work in progress counts as success.
  void check(int code, const char* call, const std::string& group, NcclHandle comm = nullptr) const;
  std::string error(int code, const char* call, const std::string& group, NcclHandle comm) const;
  /// The state of a handle: success, in progress or an error.
  int state(NcclHandle comm) const;
  /// NCCL asks for the current device of the thread that makes a group.
  void make_device_current() const;

  NcclLibrary& library;
  const Device device;
  const NcclOptions options;

 private:
  void run();

  std::timed_mutex groups_mutex_;
  std::vector<NcclWatched*> groups_;
  std::mutex mutex_;
  std::condition_variable wake_;
  bool stop_ = false;
  std::thread thread_;
  AbortHook hook_;
};

/// Makes all ranks of `control` a non-blocking NCCL group, which serves to split others from. All
/// come, or every rank that came throws the same names.
NcclHandle connect_nccl(NcclDomain& domain, Communicator& control);

/// Splits `root` (of the ranks of `control`) into groups for operations: blocking, because a
/// non-blocking group starts a thread for every operation. Negative color: returns null.
NcclHandle split_nccl(NcclDomain& domain, Communicator& control, NcclHandle root, int color,
                      int key);

/// Connects this rank (`rank` 0 or 1 of the pair) with one other for messages in one direction,
/// from 0 to 1, once both have asked for it; waits for the other one's call without limit. `group`:
/// its MPI_Comm. Returns null when `stop` became true. `peer`: the other's rank in the group.
NcclHandle connect_nccl_pair(NcclDomain& domain, Communicator& group, int peer, int rank,
                             const std::atomic<bool>& stop);

/// Finishes its work and gives the handle up; with `abort`, gives up its work too.
void close_nccl(NcclDomain& domain, NcclHandle comm, bool abort) noexcept;

}  // namespace neox
