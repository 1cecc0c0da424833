#pragma once
// Sums the gradients of blocks over the data-parallel group, bucket by bucket and asynchronously,
// and has the temporary block gradients of ZeRO 2 and 3.

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "comm/communicator.h"
#include "core/model/parameter_store.h"

namespace neox {

class BucketReducer {
 public:
  /// `group`: of the store's plan; null when that has size 1: nothing is summed. `exchange`: f32,
  /// or bf16 or f16: an all-to-all in that type whose parts are summed in f32 in rank order, so
  /// that addends are rounded, sums are not. An addend too large for f16 makes a
  /// sum that is not finite.
  BucketReducer(ParameterStore& store, Communicator* group, const Backend& ops, Stream& stream,
                DType exchange);

  /// Starts a step: what lies in the owned gradients of ZeRO 2 and 3 will be overwritten.
  void begin_step();
  /// Gives the block's gradients a place. At most two temporary ones at a time.
  void bind(int block);
  /// The block's gradients are complete: queues their sum. Temporary ones are added to the owned
  /// part and lose their place.
  void reduce(int block);
  /// True when the block's gradients have a place only between bind() and reduce().
  bool temporary(int block) const {
    return store_.sharded(State::gradients) && !store_.is_shared(block);
  }
  /// Waits for everything queued.
  void finish();
  /// Waits for messages on their way, whose sums nobody wants any more.
  void wait_all();
  /// Memory of messages that will never arrive must stay.
  void abandon() { neox::abandon(buffers_); }

  std::size_t slot_bytes() const { return slot_bytes_; }
  std::size_t message_bytes() const { return message_bytes_; }

 private:
  static constexpr int kSlots = 2;     // temporary block gradients: one fills, one is sent
  static constexpr int kMessages = 4;  // buckets in flight in another dtype

  struct Slot {
    Tensor memory;
    int block = -1;   // bound to, or -1
    int pending = 0;  // its buckets on their way
  };
  struct Message {
    Tensor send, receive;  // [largest bucket]
    bool busy = false;
  };
  /// A bucket on its way.
  struct Pending {
    Work work;
    Tensor sum;                  // f32 [bucket / size]: this rank's part arrives here, or...
    Tensor add_to;               // ...is to be added to this, when given
    Tensor whole;                // f32 [bucket]: gathered back, when given
    Message* message = nullptr;  // when in another dtype
    Slot* slot = nullptr;
    std::int64_t elements = 0;  // of the bucket
  };

  Tensor allocate(std::int64_t elements, DType dtype, std::size_t& bytes);
  void allocate_slots();
  void allocate_messages();
  Slot& free_slot(int block);
  Slot* slot_of(int block);
  void push(const Pending& pending);
  void complete_oldest();
  void start(const Tensor& source, const Bucket& bucket, bool add, Slot* slot);
  void start_exchange(const Tensor& source, const Pending& pending);
  void sum_message(const Pending& pending);

  ParameterStore& store_;
  Communicator* group_;
  const Backend& ops_;
  Stream& stream_;
  DType exchange_;
  std::vector<Buffer> buffers_;
  std::array<Slot, kSlots> slots_{};
  std::array<Message, kMessages> messages_{};
  Tensor message_sum_, message_term_;  // f32 [largest bucket / size]
  std::vector<Pending> pending_;       // a ring; the oldest is at head_
  std::size_t head_ = 0, count_ = 0;
  std::vector<Work> gathers_;       // of sums in another dtype
  std::vector<char> accumulating_;  // per block: its owned gradients hold some of this step
  std::size_t slot_bytes_ = 0, message_bytes_ = 0;
};

}  // namespace neox
