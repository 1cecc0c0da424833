#include "io/data/numpy_rng.h"

#include <bit>
#include <utility>

namespace neox {

std::uint64_t NumpyRandomState::bounded(std::uint64_t max) {
  if (max == 0) return 0;  // NumPy draws nothing here
  const std::uint64_t mask = ~std::uint64_t{0} >> std::countl_zero(max);
  std::uint64_t value = 0;
  if (max <= 0xffffffffu) {
    do {
      value = next_u32() & mask;
    } while (value > max);
  } else {
    do {
      const std::uint64_t high = next_u32();
      value = ((high << 32) | next_u32()) & mask;
    } while (value > max);
  }
  return value;
}

template <class T>
void NumpyRandomState::shuffle(std::span<T> values) {
  // The draws don't depend on the values: drawing a block ahead lets the cache misses of its swaps
  // overlap, which is most of the time for arrays larger than the cache.
  constexpr std::size_t kBlock = 128;
  std::array<std::size_t, kBlock> partner;
  std::size_t left = values.size();
  while (left > 1) {
    const std::size_t block = left - 1 < kBlock ? left - 1 : kBlock;
    for (std::size_t b = 0; b < block; ++b) {
      partner[b] = bounded(left - 1 - b);
      __builtin_prefetch(&values[partner[b]], 1);
    }
    for (std::size_t b = 0; b < block; ++b) std::swap(values[left - 1 - b], values[partner[b]]);
    left -= block;
  }
}

template void NumpyRandomState::shuffle(std::span<std::int32_t>);
template void NumpyRandomState::shuffle(std::span<std::uint32_t>);
template void NumpyRandomState::shuffle(std::span<std::int64_t>);

}  // namespace neox
