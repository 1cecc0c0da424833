#pragma once
// Brings whole weights to where they are computed with: once after each change (ZeRO 1 and 2), or
// block by block into temporary buffers, the next block ahead (ZeRO 3).

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "comm/communicator.h"
#include "core/model/parameter_store.h"

namespace neox {

class WeightGatherer {
 public:
  /// `group`: of the store's plan; null when that has size 1: nothing is gathered.
  WeightGatherer(ParameterStore& store, Communicator* group, const Backend& ops, Stream& stream);

  /// Starts a training step: the order of need() until the next one is remembered, and prefetching
  /// follows it in later steps. Elsewhere (first step, evaluation) it goes on in the direction of
  /// travel.
  void begin_step();
  void end_step() { recording_ = false; }

  /// If weights changed since: starts the gathers of those that stay whole, in forward order.
  void start();
  /// On return the weights of the block, and of blocks whose parameters it uses, are there.
  void need(int block, bool backward);
  void release(int block);
  /// Waits for all gathers on their way.
  void wait_all();
  /// Memory of gathers that will never end must stay.
  void abandon() { neox::abandon(buffers_); }

  std::size_t slot_bytes() const { return slot_bytes_; }

 private:
  static constexpr int kSlots = 2;  // the block in use, and the next one
  static constexpr int kNoBlock = -1;
  struct Slot {
    Tensor memory;
    int block = -1;              // whose weights it holds or awaits
    int users = 0;               // need() without release()
    std::int64_t last_used = 0;  // need() calls ago
  };

  bool temporary(int block) const {
    return store_.sharded(State::weights) && !store_.is_shared(block);
  }
  void allocate_slots();
  void gather(int block, const Tensor& whole);
  /// Waits for the block's gathers; true when there were any.
  bool wait(int block);
  void need_whole(int block);
  Slot* slot_of(int block);
  /// Fetches the block into a slot that nobody uses; null when there is none.
  Slot* load(int block);
  /// The block that is needed after this one, as far as known; kNoBlock: none in this step.
  int next_block(int block, bool backward);
  void prefetch(int block);

  ParameterStore& store_;
  Communicator* group_;
  const Backend& ops_;
  Stream& stream_;
  std::vector<Buffer> buffers_;
  std::array<Slot, kSlots> slots_{};
  std::vector<Tensor> whole_;             // per block: where weights stay, or empty
  std::vector<std::vector<Work>> works_;  // per block: gathers on their way
  std::vector<int> order_;                // of need() in a step
  std::size_t position_ = 0;              // of the next need() in order_
  bool recording_ = false;
  std::int64_t version_ = -1;  // of the weights that were gathered last
  std::int64_t calls_ = 0;
  std::size_t slot_bytes_ = 0;
};

}  // namespace neox
