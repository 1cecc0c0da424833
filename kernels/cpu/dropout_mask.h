#pragma once
// Philox draws for whole vectors, and the decision of dropout.

#include <algorithm>

#include "kernels/cpu/simd_math.h"
#include "kernels/elementwise.h"

namespace neox::simd {

inline constexpr std::int64_t kPhiloxBlock = 4 * kLanes;

/// words[j] = philox_word(key, 4 * counter + j) for j < 64. One call of Philox gives four words,
/// and 16 calls run side by side.
inline void philox_block(RngKey key, std::uint64_t counter, std::uint32_t* words) {
  std::uint32_t c0[kLanes], c1[kLanes], c2[kLanes] = {}, c3[kLanes] = {};
  for (std::uint32_t i = 0; i < kLanes; ++i) {
    const std::uint64_t mine = counter + i;
    c0[i] = static_cast<std::uint32_t>(mine);
    c1[i] = static_cast<std::uint32_t>(mine >> 32);
  }
  auto k0 = static_cast<std::uint32_t>(key.value);
  auto k1 = static_cast<std::uint32_t>(key.value >> 32);
  for (int round = 0; round < 10; ++round) {
    for (int i = 0; i < kLanes; ++i) {
      const std::uint64_t p0 = std::uint64_t{0xD2511F53u} * c0[i];
      const std::uint64_t p1 = std::uint64_t{0xCD9E8D57u} * c2[i];
      const std::uint32_t n0 = static_cast<std::uint32_t>(p1 >> 32) ^ c1[i] ^ k0;
      const std::uint32_t n2 = static_cast<std::uint32_t>(p0 >> 32) ^ c3[i] ^ k1;
      c1[i] = static_cast<std::uint32_t>(p1);
      c3[i] = static_cast<std::uint32_t>(p0);
      c0[i] = n0;
      c2[i] = n2;
    }
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  for (int i = 0; i < kLanes; ++i) {
    words[4 * i] = c0[i];
    words[4 * i + 1] = c1[i];
    words[4 * i + 2] = c2[i];
    words[4 * i + 3] = c3[i];
  }
}

/// Keeps an element when uniform01(word) >= p, decided on integers: word >> 8 >= ceil(p 2^24).
struct KeepRule {
  std::int32_t threshold;
  float scale;
  explicit KeepRule(float p)
      : threshold(static_cast<std::int32_t>(std::ceil(static_cast<double>(p) * 0x1p24))),
        scale(1.0f / (1.0f - p)) {}
  Floats apply(Words words, Floats x) const {
    return std::bit_cast<Ints>(words >> 8) >= threshold ? x * scale : Floats{};
  }
};

inline Words load_words(const std::uint32_t* from) {
  Words v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

/// The draws of consecutive global elements, block by block.
class DropoutDraws {
 public:
  explicit DropoutDraws(const Dropout& dropout) : key_(dropout.key), rule_(dropout.p) {}
  /// Makes ready the draws of elements [index, index + ready) and returns `ready` <= 64; index >=
  /// 0.
  std::int64_t prepare(std::int64_t index) {
    philox_block(key_, static_cast<std::uint64_t>(index) >> 2, words_);
    skip_ = index & 3;
    return kPhiloxBlock - skip_;
  }
  /// Dropout of the lanes whose first is element index + offset of the last prepare().
  Floats apply(std::int64_t offset, Floats x) const {
    return rule_.apply(load_words(words_ + skip_ + offset), x);
  }

 private:
  RngKey key_;
  KeepRule rule_;
  std::int64_t skip_ = 0;
  std::uint32_t words_[kPhiloxBlock + kLanes] = {};  // the last lanes may read beyond the draws
};

/// Global index of the first element of row r (formula: kernels/elementwise.h).
inline std::int64_t first_element(const Dropout& d, std::int64_t row, std::int64_t width) {
  const std::int64_t sample = d.first_sample + row / d.local_seq;
  const std::int64_t position = d.first_position + row % d.local_seq;
  return (sample * d.global_seq + position) * width;
}

}  // namespace neox::simd
