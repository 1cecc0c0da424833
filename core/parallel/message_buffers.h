#pragma once
// Memory and requests of a stage's messages to its neighbours on one channel.

#include <cstdint>
#include <vector>

#include "comm/communicator.h"
#include "core/tensor/buffer.h"

namespace neox {

/// Residual streams on their way to another stage. Each is copied, so that the sender's memory is
/// free at once.
class OutgoingMessages {
 public:
  /// `in_flight`: messages that may be under way at once.
  OutgoingMessages(Communicator* channel, Shape shape, DType dtype, Device device, int in_flight);
  void send(ConstTensor tensor, int peer, Stream& stream);
  /// Waits until everything has left.
  void finish(Stream& stream);
  std::size_t bytes() const;

 private:
  struct Slot {
    OwnedTensor tensor;
    Work work{};
  };
  Communicator* channel_;
  std::vector<Slot> slots_;
  std::size_t next_ = 0;
};

/// Residual streams on their way here; taken by (micro-batch, chunk).
class IncomingMessages {
 public:
  /// `buffers`: messages that may be posted and not yet released.
  IncomingMessages(Communicator* channel, Shape shape, DType dtype, Device device, int buffers);
  void post(int micro_batch, int chunk, int peer, Stream& stream);
  /// Waits for the message and copies it to `to`; its buffer is free again.
  void take(int micro_batch, int chunk, Tensor to, Stream& stream);
  std::size_t bytes() const;

 private:
  struct Slot {
    OwnedTensor tensor;
    Work work{};
    int micro_batch = -1;  // -1: free
    int chunk = 0;
  };
  Communicator* channel_;
  std::vector<Slot> slots_;
};

}  // namespace neox
