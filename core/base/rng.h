#pragma once
// Counter-based random numbers: Philox 4x32-10 (Salmon et al., SC'11). A draw is a pure function of
// (key, counter), so any rank can compute the draw of any global element: this is what makes
// initial weights and dropout masks independent of the parallel layout.

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "core/base/host_device.h"

namespace neox {

/// What a stream of random numbers is for; streams of different purposes never share a key.
enum class RngPurpose : std::uint32_t {
  init = 1,
  embedding_dropout,
  attention_dropout,
  attention_output_dropout,
  mlp_output_dropout,
  sampling
};

/// A 64-bit Philox key.
struct RngKey {
  std::uint64_t value = 0;
  /// Key of one stream: hashes all parts. `layer` and `step` are 0 where they mean nothing.
  static RngKey make(std::uint64_t seed, RngPurpose purpose, std::uint64_t layer,
                     std::uint64_t step) {
    return stem(seed, purpose, layer).at_step(step);
  }
  /// What make() knows before the step, for keys that are finished on a device: no key itself.
  static RngKey stem(std::uint64_t seed, RngPurpose purpose, std::uint64_t layer);
  NEOX_HOST_DEVICE RngKey at_step(std::uint64_t step) const { return {mix(value ^ step)}; }
  /// Key of one tensor's initialisation: (seed, init, name).
  static RngKey for_tensor(std::uint64_t seed, std::string_view name);
  bool operator==(const RngKey&) const = default;

  /// splitmix64's finaliser (Steele et al., OOPSLA'14): a bijection with full avalanche.
  NEOX_HOST_DEVICE static std::uint64_t mix(std::uint64_t x) {
    x += 0x9e3779b97f4a7c15ull;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
  }
};

/// What one counter gives.
struct PhiloxWords {
  std::uint32_t word[4];
  /// Word i < 4, chosen without an address: a GPU thread would have to put the words into memory.
  NEOX_HOST_DEVICE std::uint32_t operator[](std::size_t i) const {
    return i < 2 ? (i == 0 ? word[0] : word[1]) : (i == 2 ? word[2] : word[3]);
  }
};

/// Philox 4x32-10: four 32-bit words for the 128-bit counter {counter, 0}.
NEOX_HOST_DEVICE inline PhiloxWords philox(RngKey key, std::uint64_t counter) {
  std::uint32_t c0 = static_cast<std::uint32_t>(counter);
  std::uint32_t c1 = static_cast<std::uint32_t>(counter >> 32);
  std::uint32_t c2 = 0, c3 = 0;
  std::uint32_t k0 = static_cast<std::uint32_t>(key.value);
  std::uint32_t k1 = static_cast<std::uint32_t>(key.value >> 32);
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = std::uint64_t{0xD2511F53u} * c0;
    const std::uint64_t p1 = std::uint64_t{0xCD9E8D57u} * c2;
    const std::uint32_t n0 = static_cast<std::uint32_t>(p1 >> 32) ^ c1 ^ k0;
    const std::uint32_t n2 = static_cast<std::uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c1 = static_cast<std::uint32_t>(p1);
    c3 = static_cast<std::uint32_t>(p0);
    c0 = n0;
    c2 = n2;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

/// The 32-bit word of global element `index`: word index%4 of counter index/4.
NEOX_HOST_DEVICE inline std::uint32_t philox_word(RngKey key, std::uint64_t index) {
  return philox(key, index >> 2)[index & 3];
}

/// Uniform in [0, 1) from the upper 24 bits of a word.
NEOX_HOST_DEVICE inline float uniform01(std::uint32_t word) {
  return static_cast<float>(word >> 8) * 0x1p-24f;
}

/// Standard normal of global element `index` (Box-Muller on the words 2i, 2i+1 of the stream).
float normal_at(RngKey key, std::uint64_t index);

}  // namespace neox
