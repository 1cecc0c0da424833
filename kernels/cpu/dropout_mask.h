#pragma once
// Philox draws for whole vectors, and the decision of dropout.

#include <algorithm>

#include "kernels/cpu/simd_math.h"
#include "kernels/dropout.h"

namespace neox::simd {

using Longs = std::uint64_t __attribute__((vector_size(64)));

/// Products of the lower halves of the lanes.
inline Longs multiply_lower(Longs a, std::uint32_t b) {
#ifdef NEOX_AVX512
  return std::bit_cast<Longs>(
      _mm512_maskz_mul_epu32(0xff, std::bit_cast<__m512i>(a), _mm512_set1_epi64(std::int64_t{b})));
#else
  return (a & 0xffffffffu) * std::uint64_t{b};
#endif
}

/// words[j] = philox_word(key, 4 * counter + j) for j < 32: eight calls of Philox side by side, one
/// in each 64-bit lane. Only the lower halves of the lanes mean anything; the products ignore the
/// upper ones.
inline void philox_eight(RngKey key, std::uint64_t counter, std::uint32_t* words) {
  constexpr Longs kIndex = {0, 1, 2, 3, 4, 5, 6, 7};
  Longs c0 = kIndex + counter, c1 = c0 >> 32, c2{}, c3{};
  auto k0 = static_cast<std::uint32_t>(key.value);
  auto k1 = static_cast<std::uint32_t>(key.value >> 32);
  for (int round = 0; round < 10; ++round) {
    const Longs p0 = multiply_lower(c0, 0xD2511F53u), p1 = multiply_lower(c2, 0xCD9E8D57u);
    c0 = (p1 >> 32) ^ c1 ^ std::uint64_t{k0};
    c2 = (p0 >> 32) ^ c3 ^ std::uint64_t{k1};
    c1 = p1;
    c3 = p0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  const Longs first = (c0 & 0xffffffffu) | (c1 << 32), second = (c2 & 0xffffffffu) | (c3 << 32);
  const Longs low = __builtin_shufflevector(first, second, 0, 8, 1, 9, 2, 10, 3, 11);
  const Longs high = __builtin_shufflevector(first, second, 4, 12, 5, 13, 6, 14, 7, 15);
  std::memcpy(words, &low, sizeof low);
  std::memcpy(words + 16, &high, sizeof high);
}

/// words[j] = philox_word(key, 4 * counter + j) for j < kPhiloxBlock.
inline constexpr std::int64_t kPhiloxBlock = 64;
inline void philox_block(RngKey key, std::uint64_t counter, std::uint32_t* words) {
  philox_eight(key, counter, words);
  philox_eight(key, counter + 8, words + 32);
}

/// The rule of kernels/dropout.h for vectors.
struct KeepRule : neox::KeepRule {
  using neox::KeepRule::KeepRule;
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

}  // namespace neox::simd
