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
  /// Memory for the copies: pinned when `from` is a GPU, and touched page by page, so that the
  /// first take() costs no more than the others and no memory is missing later.
  HostSnapshot(std::size_t bytes, Device from);
  /// What tensors need.
  static std::size_t bytes_for(std::span<const CheckpointTensor> tensors);

  /// Copies shard.local of every tensor and makes it point to the copy, which lives until the next
  /// take(). Waits until the copies are complete.
  void take(std::span<CheckpointTensor> tensors, Stream& stream);

 private:
  Buffer buffer_;
};

}  // namespace neox
