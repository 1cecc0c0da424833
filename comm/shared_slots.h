#pragma once
// The shared memory of a node's ranks: one ActivitySlot each.

#include <atomic>
#include <cstdint>
#include <span>
#include <string>

#include "comm/activity_slot.h"
#include "comm/communicator.h"

namespace neox {

struct alignas(64) SlotsHeader {
  std::atomic<std::int64_t> ending_ns = 0;  // when a rank decided to end the job; 0: none did
};

/// POSIX shared memory without a name: it is unlinked as soon as all ranks have it, so nothing is
/// left behind however the job ends.
class SharedSlots {
 public:
  /// Collective over `node`. When the ranks cannot share memory, every one has a slot of its own
  /// and problem() says why.
  explicit SharedSlots(Communicator& node);
  ~SharedSlots();
  SharedSlots(const SharedSlots&) = delete;
  SharedSlots& operator=(const SharedSlots&) = delete;

  SlotsHeader& header() { return *header_; }
  std::span<ActivitySlot> all() { return slots_; }
  ActivitySlot& own() { return slots_[own_]; }
  std::size_t own_index() const { return own_; }
  const std::string& problem() const { return problem_; }

 private:
  void map(int file, std::size_t count);
  void unmap();

  void* memory_ = nullptr;
  std::size_t bytes_ = 0;
  SlotsHeader* header_ = nullptr;
  std::span<ActivitySlot> slots_;
  std::size_t own_ = 0;
  std::string problem_;
};

}  // namespace neox
