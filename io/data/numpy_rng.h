#pragma once
// The legacy random generator of NumPy (numpy.random.RandomState), as far as GPT-NeoX's data order
// needs it: MT19937 seeded with a 32-bit integer, and shuffle() of a one-dimensional integer array.

#include <array>
#include <cstdint>
#include <random>
#include <span>

namespace neox {

class NumpyRandomState {
 public:
  explicit NumpyRandomState(std::uint32_t seed) : engine_(seed) {}

  std::uint32_t next_u32() { return static_cast<std::uint32_t>(engine_()); }
  /// Uniform in [0, max]: 32-bit words (64-bit when max needs it, high word first) cut by the
  /// smallest mask 2^k - 1 >= max until one is <= max.
  std::uint64_t bounded(std::uint64_t max);

  /// Permutes in place exactly as RandomState.shuffle: Fisher-Yates from the end. T is i32, u32 or
  /// i64.
  template <class T>
  void shuffle(std::span<T> values);

 private:
  std::mt19937 engine_;
};

extern template void NumpyRandomState::shuffle(std::span<std::int32_t>);
extern template void NumpyRandomState::shuffle(std::span<std::uint32_t>);
extern template void NumpyRandomState::shuffle(std::span<std::int64_t>);

}  // namespace neox
