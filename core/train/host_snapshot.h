#pragma once
// Copies of tensors in host memory, for writing them while the originals change or because they are
// a device's.

#include <cstddef>
#include <span>

#include "core/tensor/buffer.h"
#include "io/checkpoint/checkpoint.h"

namespace neox {

class HostSnapshot {
 public:
  /// Copies shard.local of every tensor and makes it point to the copy, which lives until the next
  /// take(). Waits until the copies are complete. The memory is kept from one take to the next.
  void take(std::span<CheckpointTensor> tensors, Stream& stream);
  std::size_t bytes() const { return buffer_.bytes(); }
  /// What bytes() is after take(tensors).
  static std::size_t bytes_for(std::span<const CheckpointTensor> tensors);

 private:
  Buffer buffer_;
};

}  // namespace neox
