#pragma once
// Where a process writes what it is doing: in shared memory under a watchdog, otherwise its own.

#include <array>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

namespace neox {

/// CLOCK_MONOTONIC in nanoseconds, which all processes of a node share.
std::int64_t monotonic_ns();

/// A short text that another process may read while it changes (it may then see a mixture).
template <std::size_t Words>
class SharedText {
 public:
  void set(std::string_view text) {
    std::array<std::uint64_t, Words> words{};
    std::memcpy(words.data(), text.data(), std::min(text.size(), sizeof words - 1));
    for (std::size_t i = 0; i < Words; ++i) words_[i].store(words[i], std::memory_order_relaxed);
  }
  std::string get() const {
    std::array<std::uint64_t, Words> words{};
    for (std::size_t i = 0; i < Words; ++i) words[i] = words_[i].load(std::memory_order_relaxed);
    std::array<char, sizeof words> text{};
    std::memcpy(text.data(), words.data(), text.size() - 1);
    return text.data();
  }

 private:
  std::array<std::atomic<std::uint64_t>, Words> words_{};
};

enum class SlotState : std::int32_t { empty, running, left };

/// One process. Each value stands for itself: readers need no consistent snapshot.
struct alignas(64) ActivitySlot {
  std::atomic<SlotState> state = SlotState::empty;
  std::atomic<std::int32_t> rank = 0, pid = 0;
  std::atomic<std::uint64_t> pid_namespace = 0;
  std::atomic<std::int64_t> heartbeat_ns = 0;
  std::atomic<std::int64_t> progress_ns = 0;
  std::atomic<std::int64_t> step = -1, micro_batch = -1;
  std::atomic<std::int32_t> unlimited = 1;
  std::atomic<std::int32_t> waits_in = -1;  // a Collective
  std::atomic<std::int32_t> peer = -1;
  std::atomic<std::int32_t> on_device = 0;  // waits_in does not wait for others, but for the device
  // The same for the device; set by a thread that looks after it.
  std::atomic<std::int32_t> device_waits_in = -1, device_peer = -1;
  SharedText<3> device_group;
  SharedText<4> phase;
  SharedText<3> group;
};
static_assert(std::atomic<std::int64_t>::is_always_lock_free &&
              std::atomic<SlotState>::is_always_lock_free);

/// Lets Activity write to `slot` from now on, which begins with what it wrote before; null: back to
/// the process's own.
void redirect_activity(ActivitySlot* slot);

}  // namespace neox
