#include "core/train/host_snapshot.h"

namespace neox {
namespace {

constexpr std::size_t kAlignment = 64;

std::size_t room_for(const CheckpointTensor& tensor) {
  return (tensor.shard.local.bytes() + kAlignment - 1) / kAlignment * kAlignment;
}

}  // namespace

void HostSnapshot::take(std::span<CheckpointTensor> tensors, Stream& stream) {
  std::size_t needed = 0;
  for (const CheckpointTensor& tensor : tensors) needed += room_for(tensor);
  if (needed > buffer_.bytes()) {
    buffer_ = {};  // before the larger one comes
    buffer_ = Buffer(needed, Device{});
  }
  std::size_t at = 0;
  for (CheckpointTensor& tensor : tensors) {
    Tensor& local = tensor.shard.local;
    const Tensor host = buffer_.view(local.shape, local.dtype, at);
    at += room_for(tensor);
    copy(stream, local, host);
    local = host;
  }
  stream.synchronize();
}

}  // namespace neox
