#include "core/parallel/message_buffers.h"

#include <algorithm>

namespace neox {
namespace {

template <class Slots>
std::size_t bytes_of(const Slots& slots) {
  std::size_t bytes = 0;
  for (const auto& slot : slots) bytes += slot.tensor.tensor.bytes();
  return bytes;
}

}  // namespace

OutgoingMessages::OutgoingMessages(Communicator* channel, Shape shape, DType dtype, Device device,
                                   int in_flight)
    : channel_(channel) {
  for (int i = 0; i < in_flight; ++i) slots_.push_back({OwnedTensor(shape, dtype, device)});
}

void OutgoingMessages::send(ConstTensor tensor, int peer, Stream& stream) {
  Slot& slot = slots_.at(next_);
  next_ = (next_ + 1) % slots_.size();
  slot.work.wait(stream);
  copy(stream, tensor, slot.tensor);
  slot.work = channel_->send(slot.tensor, peer, stream);
}

void OutgoingMessages::finish(Stream& stream) {
  for (Slot& slot : slots_) {
    slot.work.wait(stream);
    slot.work = {};
  }
}

std::size_t OutgoingMessages::bytes() const {
  return bytes_of(slots_);
}

IncomingMessages::IncomingMessages(Communicator* channel, Shape shape, DType dtype, Device device,
                                   int buffers)
    : channel_(channel) {
  for (int i = 0; i < buffers; ++i) slots_.push_back({OwnedTensor(shape, dtype, device)});
}

void IncomingMessages::post(int micro_batch, int chunk, int peer, Stream& stream) {
  const auto slot =
      std::find_if(slots_.begin(), slots_.end(), [](const Slot& s) { return s.micro_batch < 0; });
  require(slot != slots_.end(), "internal error: the schedule posts more than {} receives",
          slots_.size());
  slot->micro_batch = micro_batch;
  slot->chunk = chunk;
  slot->work = channel_->recv(slot->tensor, peer, stream);
}

void IncomingMessages::take(int micro_batch, int chunk, Tensor to, Stream& stream) {
  const auto slot = std::find_if(slots_.begin(), slots_.end(), [&](const Slot& s) {
    return s.micro_batch == micro_batch && s.chunk == chunk;
  });
  require(slot != slots_.end(), "internal error: micro-batch {} of chunk {} was never received",
          micro_batch, chunk);
  slot->work.wait(stream);
  copy(stream, slot->tensor, to);
  slot->micro_batch = -1;
}

std::size_t IncomingMessages::bytes() const {
  return bytes_of(slots_);
}

}  // namespace neox
