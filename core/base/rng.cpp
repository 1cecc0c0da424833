#include "core/base/rng.h"

#include <cmath>
#include <numbers>

namespace neox {
RngKey RngKey::stem(std::uint64_t seed, RngPurpose purpose, std::uint64_t layer) {
  std::uint64_t h = mix(seed);
  h = mix(h ^ static_cast<std::uint64_t>(purpose));
  return {mix(h ^ layer)};
}

RngKey RngKey::for_tensor(std::uint64_t seed, std::string_view name) {
  std::uint64_t h = mix(mix(seed) ^ static_cast<std::uint64_t>(RngPurpose::init));
  for (const char c : name) h = mix(h ^ static_cast<unsigned char>(c));
  return {h};
}

float normal_at(RngKey key, std::uint64_t index) {
  const auto words = philox(key, index >> 1);
  const std::size_t pair = (index & 1) * 2;
  // (0, 1]: the logarithm must stay finite.
  const double u = (static_cast<double>(words[pair]) + 1.0) * 0x1p-32;
  const double v = static_cast<double>(words[pair + 1]) * 0x1p-32;
  return static_cast<float>(std::sqrt(-2.0 * std::log(u)) * std::cos(2.0 * std::numbers::pi * v));
}

}  // namespace neox
