#include "comm/reduce.h"

#include <algorithm>
#include <array>

namespace neox {
namespace {

constexpr std::int64_t kBlock = 2048;  // elements; the accumulator stays in the first-level cache

template <class T>
using Accumulator = std::conditional_t<std::is_same_v<T, bf16> || std::is_same_v<T, f16>, float, T>;

template <class T, class Combine>
void reduce_with(std::span<const std::byte* const> sources, std::byte* out, std::int64_t count,
                 Combine combine) {
  using A = Accumulator<T>;
  std::array<A, kBlock> acc;
  for (std::int64_t begin = 0; begin < count; begin += kBlock) {
    const auto n = static_cast<std::size_t>(std::min(kBlock, count - begin));
    const T* first = reinterpret_cast<const T*>(sources[0]) + begin;
    for (std::size_t i = 0; i < n; ++i) acc[i] = static_cast<A>(first[i]);
    for (std::size_t s = 1; s < sources.size(); ++s) {
      const T* next = reinterpret_cast<const T*>(sources[s]) + begin;
      for (std::size_t i = 0; i < n; ++i) acc[i] = combine(acc[i], static_cast<A>(next[i]));
    }
    T* to = reinterpret_cast<T*>(out) + begin;
    for (std::size_t i = 0; i < n; ++i) to[i] = T(acc[i]);
  }
}

template <class T>
void reduce_typed(ReduceOp op, std::span<const std::byte* const> sources, std::byte* out,
                  std::int64_t count) {
  using A = Accumulator<T>;
  switch (op) {
    case ReduceOp::sum:
      // Small integers wrap like MPI's; the cast undoes the promotion to int.
      return reduce_with<T>(sources, out, count, [](A a, A b) { return static_cast<A>(a + b); });
    case ReduceOp::max:
      return reduce_with<T>(sources, out, count, [](A a, A b) { return a < b ? b : a; });
    case ReduceOp::min:
      return reduce_with<T>(sources, out, count, [](A a, A b) { return b < a ? b : a; });
  }
}

}  // namespace

void reduce_elements(DType dtype, ReduceOp op, std::span<const std::byte* const> sources,
                     std::byte* out, std::int64_t count) {
  switch (dtype) {
    case DType::f32:
      return reduce_typed<float>(op, sources, out, count);
    case DType::bf16:
      return reduce_typed<bf16>(op, sources, out, count);
    case DType::f16:
      return reduce_typed<f16>(op, sources, out, count);
    case DType::f64:
      return reduce_typed<double>(op, sources, out, count);
    case DType::i8:
      return reduce_typed<std::int8_t>(op, sources, out, count);
    case DType::u8:
      return reduce_typed<std::uint8_t>(op, sources, out, count);
    case DType::i16:
      return reduce_typed<std::int16_t>(op, sources, out, count);
    case DType::u16:
      return reduce_typed<std::uint16_t>(op, sources, out, count);
    // Unsigned addition: signed sums may wrap, as MPI's do, without undefined behaviour.
    case DType::i32:
      return op == ReduceOp::sum ? reduce_typed<std::uint32_t>(op, sources, out, count)
                                 : reduce_typed<std::int32_t>(op, sources, out, count);
    case DType::u32:
      return reduce_typed<std::uint32_t>(op, sources, out, count);
    case DType::i64:
      return op == ReduceOp::sum ? reduce_typed<std::uint64_t>(op, sources, out, count)
                                 : reduce_typed<std::int64_t>(op, sources, out, count);
    case DType::u64:
      return reduce_typed<std::uint64_t>(op, sources, out, count);
  }
}

}  // namespace neox
