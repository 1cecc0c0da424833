#include "core/tensor/arena.h"

#include <algorithm>

#include "core/base/format.h"

namespace neox {
namespace {
constexpr std::size_t kAlignment = 256;
}

Tensor Arena::take(Shape shape, DType dtype) {
  const std::size_t offset = top_;
  const std::size_t bytes = static_cast<std::size_t>(shape.numel()) * size_of(dtype);
  top_ = (offset + bytes + kAlignment - 1) / kAlignment * kAlignment;
  if (!committed_) {
    high_water_ = std::max(high_water_, top_);
    return {nullptr, shape, dtype, device_};
  }
  if (top_ > high_water_) {
    fail("internal error: the activation arena was measured at {} but {} {} needs more",
         format_bytes(high_water_), name_of(dtype), shape.str());
  }
  if (dry_run_) return {nullptr, shape, dtype, device_};
  return buffer_.view(shape, dtype, offset);
}

void Arena::commit(std::size_t bytes) {
  require(top_ == 0, "internal error: an arena was committed while in use");
  high_water_ = bytes;
  if (!dry_run_) buffer_ = Buffer(high_water_, device_);
  committed_ = true;
}

}  // namespace neox
