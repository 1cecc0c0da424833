#pragma once
// Ends a job whose ranks vanish or stop making progress, and says which and where.

#include <memory>

#include "comm/mpi.h"

namespace neox {

/// One per process, made after MpiEnvironment and destroyed before it. The ranks of a node publish
/// their Activity and a heartbeat in shared memory; a thread in each of them looks after the
/// others:
///  - a rank whose process is gone without having left is named at once (the launcher usually sees
///    it too, but not every launcher says so or acts);
///  - with a limit, a rank without progress for that long is named with its phase, step,
///  micro-batch
///    and the operation it waits in; ranks that don't run (stopped) or compute without end are told
///    from those that only wait for them.
/// Then the job ends with exit code 1.
class Watchdog {
 public:
  /// Collective over the node. Where its ranks cannot share memory, warns and watches this process
  /// only.
  explicit Watchdog(MpiEnvironment& mpi);
  /// Tells the others that this rank leaves on purpose. Not collective.
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

  /// Seconds without progress after which the job ends; 0 (at first): never.
  void set_limit(double seconds);
  /// Keeps the watchdogs of this node quiet, because this rank is about to end the job; should that
  /// not come about within seconds, they kill its processes.
  void job_ends();

 private:
  class State;
  std::unique_ptr<State> state_;
};

}  // namespace neox
