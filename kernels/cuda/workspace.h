#pragma once
// Scratch memory of operators.

#include <cstddef>
#include <map>
#include <mutex>

#include "core/tensor/buffer.h"

namespace neox {

/// One buffer per stream, because the work of different streams overlaps; the work of one stream
/// may share it. Grows on first uses, then stays.
class Workspace {
 public:
  /// At least `bytes` for work that is queued on `stream` before the next call for that stream.
  std::byte* get(const Stream& stream, std::size_t bytes);

 private:
  std::mutex mutex_;
  std::map<const void*, Buffer> buffers_;  // by native handle, which outlives the Stream object
};

}  // namespace neox
