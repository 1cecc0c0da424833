#include "kernels/cuda/workspace.h"

namespace neox {

void* Workspace::take(const Stream& stream, std::size_t bytes) const {
  const std::scoped_lock lock(mutex_);
  Buffer& buffer = buffers_[stream.native()];
  if (buffer.bytes() < bytes) {
    buffer = Buffer();  // frees first: both together may not fit
    buffer = Buffer(bytes, stream.device(), MemoryOwner::backend);
  }
  return buffer.data();
}

}  // namespace neox
