#include "core/train/host_snapshot.h"

#include <exception>

namespace neox {
namespace {

constexpr std::size_t kAlignment = 64, kSmallestPage = 4096;

std::size_t room_for(const CheckpointTensor& tensor) {
  return (tensor.shard.local.bytes() + kAlignment - 1) / kAlignment * kAlignment;
}

}  // namespace

std::atomic<void (*)()> testing_hooks::before_fill = nullptr;

HostSnapshot::HostSnapshot(std::size_t bytes, Device from)
    : buffer_(Buffer::pinned(bytes, from)),
      device_(from),
      stream_(make_stream(from)),
      begin_(make_event(from)) {
  for (std::size_t at = 0; at < bytes; at += kSmallestPage) buffer_.data()[at] = std::byte{0};
}

std::size_t HostSnapshot::bytes_for(std::span<const CheckpointTensor> tensors) {
  std::size_t bytes = 0;
  for (const CheckpointTensor& tensor : tensors) bytes += room_for(tensor);
  return bytes;
}

void HostSnapshot::place(std::span<CheckpointTensor> tensors, Stream& stream) {
  copies_.clear();
  std::size_t at = 0;
  for (CheckpointTensor& tensor : tensors) {
    Tensor& local = tensor.shard.local;
    const Tensor host = buffer_.view(local.shape, local.dtype, at);
    at += room_for(tensor);
    copies_.push_back({local, host});
    local = host;
  }
  begin_->record(stream);
  begin_->make_wait(*stream_);
  const std::lock_guard lock(mutex_);
  due_ = true;
}

void HostSnapshot::fill() {
  std::exception_ptr failure;
  try {
    if (auto* const hook = testing_hooks::before_fill.load()) hook();
    device_runtime(device_.kind).make_current(device_.index);  // of this thread
    for (const Copy& one : copies_) copy(*stream_, one.from, one.to);
    stream_->synchronize();
  } catch (...) {
    failure = std::current_exception();
  }
  {
    const std::lock_guard lock(mutex_);
    due_ = false;
  }
  through_.notify_all();
  if (failure) std::rethrow_exception(failure);
}

void HostSnapshot::wait() {
  std::unique_lock lock(mutex_);
  through_.wait(lock, [this] { return !due_; });
}

}  // namespace neox
