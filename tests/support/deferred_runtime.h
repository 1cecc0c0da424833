#pragma once
// A device made to find mistakes in the order of work: its streams don't run what is queued until
// somebody asks for the result, and then run no more than that asks for, or other streams' work too
// in a random but legal order.

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "core/tensor/device.h"

namespace neox {

enum class DeferredOrder : std::uint8_t {
  at_once,  ///< work runs when it is queued, unless it has to wait
  lazy,     ///< nothing runs before it is needed
  random    ///< as lazy, but other streams' work may run at any moment
};
const char* name_of(DeferredOrder order);

/// Registers the runtime of DeviceKind::simulated, or changes the order of the one registered here.
/// Copies of memory that is not where its Device says are Errors; new memory is full of NaN;
/// released memory lives as long as queued work. Host memory that is not pinned is copied from and
/// to as CUDA does: at the call.
void use_deferred_runtime(DeferredOrder order, std::uint64_t seed = 1);

/// What the runtime says of its devices.
void set_deferred_devices(int count, const std::string& physical_name);

/// Queues work on a stream of this runtime that may take several calls: it returns whether it has
/// finished, and is called again while it hasn't. It must not use the runtime.
void enqueue_deferred(void* native_stream, std::function<bool()> work);

/// While it lives, a thread runs what is queued for longer than a few milliseconds, as a device
/// would: for work that other ranks wait for.
class DeferredProgress {
 public:
  DeferredProgress();
  ~DeferredProgress();
  DeferredProgress(const DeferredProgress&) = delete;
  DeferredProgress& operator=(const DeferredProgress&) = delete;

 private:
  struct Thread;
  std::unique_ptr<Thread> thread_;
};

/// Items queued and not run, over all streams.
std::int64_t deferred_items();

}  // namespace neox
