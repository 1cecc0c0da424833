#pragma once
// Scratch memory of a family's kernels.

#include <map>
#include <mutex>

#include "core/tensor/buffer.h"

namespace neox {

/// One buffer for each stream, counted as the backend's (MemoryOwner::backend). It grows to the
/// largest size asked for, so a training step allocates nothing after the first one. Growing gives
/// the old buffer back, for which CUDA waits until the device has done its work.
class Workspace {
 public:
  explicit Workspace(Device device) : device_(device) {}

  /// At least `bytes`, aligned to 256, contents undefined. Work of the stream queued later may use
  /// the same memory.
  void* take(const Stream& stream, std::size_t bytes) const {
    const std::lock_guard lock(mutex_);
    Buffer& buffer = buffers_[&stream];
    if (buffer.bytes() < bytes) {
      buffer = Buffer();  // first give back, then take
      buffer = Buffer(bytes, device_, MemoryOwner::backend);
    }
    return buffer.data();
  }

 private:
  Device device_;
  mutable std::mutex mutex_;
  mutable std::map<const Stream*, Buffer> buffers_;
};

}  // namespace neox
