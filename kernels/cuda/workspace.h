#pragma once
// Scratch memory of a family's kernels.

#include <cstddef>
#include <map>
#include <mutex>

#include "core/tensor/buffer.h"

namespace neox {

/// One buffer for each stream, because the work of different streams overlaps and that of one may
/// share it; counted as the backend's (MemoryOwner::backend). It grows to the largest size asked
/// for, so a training step allocates nothing after the first one. Growing gives the old buffer
/// back, for which CUDA waits until the device has done its work.
class Workspace {
 public:
  /// At least `bytes`, aligned to 256, contents undefined: for work that is queued on `stream`
  /// before the next call for that stream.
  void* take(const Stream& stream, std::size_t bytes) const;

 private:
  mutable std::mutex mutex_;
  mutable std::map<const void*, Buffer> buffers_;  // by native handle, which outlives the Stream
};

}  // namespace neox
