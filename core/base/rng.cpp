#include "core/base/rng.h"

#include <cmath>
#include <numbers>

namespace neox {
namespace {

// splitmix64's finaliser (Steele et al., OOPSLA'14): a bijection with full avalanche.
std::uint64_t mix(std::uint64_t x) {
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

}  // namespace

RngKey RngKey::make(std::uint64_t seed, RngPurpose purpose, std::uint64_t layer,
                    std::uint64_t step) {
  std::uint64_t h = mix(seed);
  h = mix(h ^ static_cast<std::uint64_t>(purpose));
  h = mix(h ^ layer);
  h = mix(h ^ step);
  return {h};
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
