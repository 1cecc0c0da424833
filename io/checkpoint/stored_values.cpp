#include "io/checkpoint/stored_values.h"

#include <algorithm>
#include <cstring>
#include <fcntl.h>

#include "core/base/dtype.h"
#include "core/base/error.h"
#include "io/checkpoint/sum64.h"

namespace neox {
namespace {

template <class T>
void widen(const std::byte* from, std::int64_t count, double* to) {
  for (std::int64_t i = 0; i < count; ++i) {
    T value;
    std::memcpy(&value, from + static_cast<std::size_t>(i) * sizeof(T), sizeof(T));
    if constexpr (std::is_arithmetic_v<T>) {
      to[i] = static_cast<double>(value);
    } else {
      to[i] = static_cast<double>(static_cast<float>(value));
    }
  }
}

void widen(DType dtype, const std::byte* from, std::int64_t count, double* to) {
  switch (dtype) {
    case DType::f32:
      return widen<float>(from, count, to);
    case DType::bf16:
      return widen<bf16>(from, count, to);
    case DType::f16:
      return widen<f16>(from, count, to);
    case DType::f64:
      return widen<double>(from, count, to);
    case DType::i8:
      return widen<std::int8_t>(from, count, to);
    case DType::u8:
      return widen<std::uint8_t>(from, count, to);
    case DType::i16:
      return widen<std::int16_t>(from, count, to);
    case DType::u16:
      return widen<std::uint16_t>(from, count, to);
    case DType::i32:
      return widen<std::int32_t>(from, count, to);
    case DType::u32:
      return widen<std::uint32_t>(from, count, to);
    case DType::i64:
      return widen<std::int64_t>(from, count, to);
    case DType::u64:
      return widen<std::uint64_t>(from, count, to);
  }
}

}  // namespace

StoredValues::StoredValues(const std::string& path, const StoredTensor& tensor)
    : file_(path, O_RDONLY), tensor_(tensor) {
  const std::int64_t most = std::min(kPiece, tensor_.shape.numel());
  bytes_.resize(static_cast<std::size_t>(most) * size_of(tensor_.dtype));
  values_.resize(static_cast<std::size_t>(most));
}

std::span<const double> StoredValues::next() {
  const std::int64_t all = tensor_.shape.numel();
  const std::int64_t count = std::min(kPiece, all - at_);
  if (count == 0) return {};
  const auto element = static_cast<std::int64_t>(size_of(tensor_.dtype));
  file_.read(bytes_.data(), count * element, tensor_.file_offset + at_ * element);
  sum_ += sum64(bytes_.data(), size_of(tensor_.dtype), count, at_);
  at_ += count;
  require(at_ < all || sum_ == tensor_.sum, "{} is damaged: the sum of {} does not match",
          file_.path(), tensor_.path);
  widen(tensor_.dtype, bytes_.data(), count, values_.data());
  return std::span(values_).first(static_cast<std::size_t>(count));
}

}  // namespace neox
