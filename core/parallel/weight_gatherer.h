#pragma once
// Brings whole weights to where they are computed with: once after each optimizer step (ZeRO 1 and
// 2), or block by block into temporary buffers, the next block ahead (ZeRO 3).

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "comm/communicator.h"
#include "core/model/parameter_store.h"

namespace neox {

class WeightGatherer {
 public:
  /// `group`: null or of size 1: nothing is gathered.
  WeightGatherer(ParameterStore& store, Communicator* group, const Backend& ops, Stream& stream);

  /// Starts the gathers of weights that stay whole, in forward order, if they changed since.
  void start();
  /// On return the block's weights, and those of blocks it uses, are there.
  void need(int block, bool backward);
  void release(int block);

  std::size_t slot_bytes() const { return slot_bytes_; }

 private:
  static constexpr int kSlots = 2;  // in use, and the next one
  struct Slot {
    Tensor memory;
    int block = -1;     // whose weights it holds or awaits
    int users = 0;      // need() without release()
    bool ready = true;  // nothing left to wait for
  };

  bool temporary(int block) const {
    return store_.sharded(State::weights) && !store_.is_shared(block);
  }
  void gather(int block, Tensor whole);
  void wait(int block);
  Slot* slot_of(int block);
  /// A slot that nobody uses gets the block's weights; null when all are in use.
  Slot* load(int block, int keep);

  ParameterStore& store_;
  Communicator* group_;
  const Backend& ops_;
  Stream& stream_;
  std::vector<Buffer> buffers_;
  std::array<Slot, kSlots> slots_;
  std::vector<std::vector<Work>> works_;  // per block: gathers on their way
  std::int64_t version_ = 0;              // of the weights that were gathered last
  std::size_t slot_bytes_ = 0;
};

}  // namespace neox
