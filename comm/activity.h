#pragma once
// What this process is doing now, for the watchdog. All calls cost a few nanoseconds and may be
// made from any thread, whether a watchdog runs or not.

#include <cstdint>
#include <string_view>

#include "comm/traffic.h"

namespace neox {

class Activity {
 public:
  /// Progress: the process has entered `phase` ("forward", "optimizer"; cut after 31 characters) of
  /// `step` (the step being computed, from 1) and micro-batch (from 0). Negative: not applicable.
  static void set(std::string_view phase, std::int64_t step = -1, std::int64_t micro_batch = -1);
  /// The same for work that may take any time without a sign of life (building an index, loading):
  /// no limit applies until the next set().
  static void set_unlimited(std::string_view phase);
  /// Progress within the phase: a piece of a file was written, a batch was read.
  static void tick();

  /// While it lives, ticks of this thread are not the process's progress: work behind the run's
  /// back must not hide that the run stands still. Who waits for such work looks at
  /// background_ticks() and passes them on.
  class Background {
   public:
    Background();
    ~Background();
    Background(const Background&) = delete;
    Background& operator=(const Background&) = delete;
  };
  static std::int64_t background_ticks();

  /// While it lives, this thread waits for other ranks in `collective` of the group with this name;
  /// peer < 0: the whole group. Made by communicators. Begin and end are progress.
  class Waiting {
   public:
    Waiting(Collective collective, std::string_view group, int peer = -1);
    ~Waiting();
    /// While true, it is this process's own device that has not come so far, not the other ranks.
    void on_device(bool waits);
    Waiting(const Waiting&) = delete;
    Waiting& operator=(const Waiting&) = delete;

   private:
    bool on_device_ = false;
  };

  /// While it lives, this process's device waits for other ranks, whatever its threads do: a thread
  /// that waits for the device then waits for them.
  class DeviceWait {
   public:
    DeviceWait(Collective collective, std::string_view group, int peer = -1);
    ~DeviceWait();
    DeviceWait(const DeviceWait&) = delete;
    DeviceWait& operator=(const DeviceWait&) = delete;
  };
};

}  // namespace neox
