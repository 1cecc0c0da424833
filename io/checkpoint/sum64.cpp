#include "io/checkpoint/sum64.h"

#include <cstring>

#include "core/base/error.h"

namespace neox {
namespace {

// Steele, Lea, Flood: Fast splittable pseudorandom number generators (2014); output i of seed 0.
inline std::uint64_t splitmix64(std::uint64_t i) {
  std::uint64_t z = (i + 1) * 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

template <class T>
std::uint64_t sum_typed(const std::byte* data, std::int64_t count, std::uint64_t first) {
  std::uint64_t sum = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    T bits;
    std::memcpy(&bits, data + static_cast<std::size_t>(i) * sizeof(T), sizeof(T));
    const std::uint64_t index = first + static_cast<std::uint64_t>(i);
    sum += (std::uint64_t{bits} + 1) * (splitmix64(index) | 1);
  }
  return sum;
}

}  // namespace

std::uint64_t sum64(const std::byte* data, std::size_t element_size, std::int64_t count,
                    std::int64_t first_index) {
  const auto first = static_cast<std::uint64_t>(first_index);
  switch (element_size) {
    case 1:
      return sum_typed<std::uint8_t>(data, count, first);
    case 2:
      return sum_typed<std::uint16_t>(data, count, first);
    case 4:
      return sum_typed<std::uint32_t>(data, count, first);
    case 8:
      return sum_typed<std::uint64_t>(data, count, first);
    default:
      fail("sum64 takes elements of 1, 2, 4 or 8 bytes, not of {}", element_size);
  }
}

}  // namespace neox
