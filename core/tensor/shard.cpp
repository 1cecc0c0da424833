#include "core/tensor/shard.h"

#include <algorithm>

namespace neox {

Slice Slice::whole(const Shape& global) {
  Slice slice;
  for (int i = 0; i < global.rank(); ++i) {
    slice.offset.push_back(0);
    slice.extent.push_back(global[i]);
  }
  return slice;
}

std::optional<Slice> intersect(const Slice& a, const Slice& b) {
  require(a.extent.rank() == b.extent.rank(), "slices of {} and {} axes cannot intersect",
          a.extent.rank(), b.extent.rank());
  Slice common;
  for (int i = 0; i < a.extent.rank(); ++i) {
    const std::int64_t begin = std::max(a.offset[i], b.offset[i]);
    const std::int64_t end = std::min(a.offset[i] + a.extent[i], b.offset[i] + b.extent[i]);
    if (begin >= end) return std::nullopt;
    common.offset.push_back(begin);
    common.extent.push_back(end - begin);
  }
  return common;
}

}  // namespace neox
