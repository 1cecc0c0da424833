#include "core/train/host_snapshot.h"

namespace neox {
namespace {

constexpr std::size_t kAlignment = 64, kSmallestPage = 4096;

std::size_t room_for(const CheckpointTensor& tensor) {
  return (tensor.shard.local.bytes() + kAlignment - 1) / kAlignment * kAlignment;
}

}  // namespace

HostSnapshot::HostSnapshot(std::size_t bytes, Device from) : buffer_(Buffer::pinned(bytes, from)) {
  for (std::size_t at = 0; at < bytes; at += kSmallestPage) buffer_.data()[at] = std::byte{0};
}

std::size_t HostSnapshot::bytes_for(std::span<const CheckpointTensor> tensors) {
  std::size_t bytes = 0;
  for (const CheckpointTensor& tensor : tensors) bytes += room_for(tensor);
  return bytes;
}

void HostSnapshot::take(std::span<CheckpointTensor> tensors, Stream& stream) {
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
