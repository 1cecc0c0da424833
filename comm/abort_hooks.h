#pragma once
// What a process does before it ends the whole job.

#include <functional>

namespace neox {

/// While it lives, `action` runs when this process ends the job (MpiEnvironment::abort, also by the
/// watchdog), on a thread of its own. It may come while any other code of the process is stuck, so
/// it must not wait for locks that such code may hold.
class AbortHook {
 public:
  explicit AbortHook(std::function<void()> action);
  ~AbortHook();
  AbortHook(const AbortHook&) = delete;
  AbortHook& operator=(const AbortHook&) = delete;

 private:
  std::function<void()> action_;
  friend void run_abort_hooks(double seconds);
};

/// Runs all actions; returns when they are done, or after `seconds` whatever they do.
void run_abort_hooks(double seconds);

}  // namespace neox
