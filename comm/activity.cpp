#include "comm/activity.h"

#include <ctime>

#include "comm/activity_slot.h"

namespace neox {
namespace {

ActivitySlot own_slot;
std::atomic<ActivitySlot*> current = &own_slot;
thread_local bool in_background = false;
std::atomic<std::int64_t> background_count = 0;

ActivitySlot& slot() {
  return *current.load(std::memory_order_relaxed);
}

void enter(std::string_view phase, std::int64_t step, std::int64_t micro_batch, bool unlimited) {
  ActivitySlot& s = slot();
  s.phase.set(phase);
  s.step.store(step, std::memory_order_relaxed);
  s.micro_batch.store(micro_batch, std::memory_order_relaxed);
  // The time first: a new limit must not meet the progress of long ago.
  s.progress_ns.store(monotonic_ns(), std::memory_order_release);
  s.unlimited.store(unlimited ? 1 : 0, std::memory_order_release);
}

}  // namespace

std::int64_t monotonic_ns() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * std::int64_t{1'000'000'000} + now.tv_nsec;
}

void redirect_activity(ActivitySlot* to) {
  ActivitySlot& target = to != nullptr ? *to : own_slot;
  const ActivitySlot& from = slot();
  target.phase.set(from.phase.get());
  target.step = from.step.load();
  target.micro_batch = from.micro_batch.load();
  target.progress_ns = monotonic_ns();
  target.unlimited = from.unlimited.load();
  target.waits_in = -1;
  target.on_device = 0;
  target.device_waits_in = -1;
  current = &target;
}

void Activity::set(std::string_view phase, std::int64_t step, std::int64_t micro_batch) {
  enter(phase, step, micro_batch, false);
}

void Activity::set_unlimited(std::string_view phase) {
  enter(phase, -1, -1, true);
}

void Activity::tick() {
  if (in_background) {
    background_count.fetch_add(1, std::memory_order_relaxed);
    return;
  }
  slot().progress_ns.store(monotonic_ns(), std::memory_order_relaxed);
}

Activity::Background::Background() {
  in_background = true;
}

Activity::Background::~Background() {
  in_background = false;
}

std::int64_t Activity::background_ticks() {
  return background_count.load(std::memory_order_relaxed);
}

Activity::Waiting::Waiting(Collective collective, std::string_view group, int peer) {
  ActivitySlot& s = slot();
  s.group.set(group);
  s.peer.store(peer, std::memory_order_relaxed);
  s.progress_ns.store(monotonic_ns(), std::memory_order_relaxed);
  s.waits_in.store(static_cast<std::int32_t>(collective), std::memory_order_release);
}

Activity::Waiting::~Waiting() {
  ActivitySlot& s = slot();
  s.progress_ns.store(monotonic_ns(), std::memory_order_relaxed);
  s.waits_in.store(-1, std::memory_order_release);
  if (on_device_) s.on_device.store(0, std::memory_order_relaxed);
}

void Activity::Waiting::on_device(bool waits) {
  if (waits == on_device_) return;
  on_device_ = waits;
  slot().on_device.store(waits ? 1 : 0, std::memory_order_relaxed);
}

Activity::DeviceWait::DeviceWait(Collective collective, std::string_view group, int peer) {
  ActivitySlot& s = slot();
  s.device_group.set(group);
  s.device_peer.store(peer, std::memory_order_relaxed);
  s.device_waits_in.store(static_cast<std::int32_t>(collective), std::memory_order_release);
}

Activity::DeviceWait::~DeviceWait() {
  slot().device_waits_in.store(-1, std::memory_order_release);
}

}  // namespace neox
