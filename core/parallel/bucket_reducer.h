#pragma once
// Sums the gradients of blocks over the data-parallel group, bucket by bucket and asynchronously,
// and owns the temporary block gradients of ZeRO 2 and 3.

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <vector>

#include "comm/communicator.h"
#include "core/model/parameter_store.h"

namespace neox {

class BucketReducer {
 public:
  /// `group`: null or of size 1: nothing is summed. `exchange`: f32 or bf16 (all-to-all in bf16,
  /// summed in f32 in rank order, so that only the addends are rounded).
  BucketReducer(ParameterStore& store, Communicator* group, const Backend& ops, Stream& stream,
                DType exchange);

  /// Starts a step: owned gradients will be overwritten.
  void begin_step();
  /// Makes the block's gradients addressable.
  void bind(int block);
  /// The block's gradients are complete: queues their sum. Temporary ones are added to the owned
  /// part and given up.
  void reduce(int block);
  /// True when the block's gradients live in a temporary buffer.
  bool temporary(int block) const {
    return store_.sharded(State::gradients) && !store_.is_shared(block);
  }
  /// Waits for everything queued.
  void finish();

  std::size_t slot_bytes() const { return slot_bytes_; }
  std::size_t message_bytes() const { return message_bytes_; }

 private:
  static constexpr int kSlots = 2;     // temporary block gradients
  static constexpr int kMessages = 4;  // buckets in flight in another dtype

  /// A bucket on its way.
  struct Pending {
    Work work;
    Bucket bucket;
    Tensor source;     // f32 [bucket], where the gradients lie
    Tensor target;     // f32 [bucket / size]; its sum goes there
    bool add = false;  // or overwrites
    int message = -1;  // staging, when in another dtype
    int slot = -1;
  };
  struct Slot {
    Tensor memory;
    int block = -1;   // bound to, or -1
    int pending = 0;  // buckets on their way
  };
  struct Message {
    Tensor send, receive;  // [bucket]
    bool busy = false;
  };

  Tensor allocate(std::int64_t elements, DType dtype, std::size_t& bytes);
  void start(Pending pending);
  void start_exchange(Pending pending);
  void complete_oldest();
  void sum_message(const Pending& pending);

  ParameterStore& store_;
  Communicator* group_;
  const Backend& ops_;
  Stream& stream_;
  DType exchange_;
  std::vector<Buffer> buffers_;
  std::array<Slot, kSlots> slots_;
  std::array<Message, kMessages> messages_;
  Tensor term_;                   // f32: one rank's part of a bf16 message
  std::vector<Pending> pending_;  // ring, oldest at head_
  std::size_t head_ = 0, count_ = 0;
  std::vector<Work> gathers_;  // stage 0 in another dtype: sums on their way back
  std::vector<bool> begun_;    // per block: its owned gradients hold some of this step
  std::size_t slot_bytes_ = 0, message_bytes_ = 0;
  int next_slot_ = 0;
};

}  // namespace neox
