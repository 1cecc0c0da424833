#pragma once
// ALiBi, attention with linear biases: the arithmetic that every backend shares, also from inside
// kernels.

#include <cmath>
#include <cstdint>

#include "core/base/host_device.h"

namespace neox {

/// Adds -alibi_slope() (i - j) to the scaled score of a query at position i and a key at j.
struct AlibiBias {
  std::int64_t first_head = 0;    ///< the model's head that is head 0 here
  std::int64_t global_heads = 0;  ///< of the model; 0: no bias
};

/// Slope of head `head` of those here. n heads of the model, n a power of two: head k has 2^(-8 (k
/// + 1) / n). Otherwise, with c the largest power of two below n: the first c heads have the slopes
/// of c heads, the others the first, third, fifth ... of those of 2 c heads.
NEOX_HOST_DEVICE inline float alibi_slope(const AlibiBias& bias, std::int64_t head) {
  std::int64_t power = 1;
  while (2 * power <= bias.global_heads) power *= 2;
  const std::int64_t k = bias.first_head + head;
  const float exponent =
      k < power ? 8.0f * static_cast<float>(k + 1) / static_cast<float>(power)
                : 4.0f * static_cast<float>(2 * (k - power) + 1) / static_cast<float>(power);
  return exp2f(-exponent);
}

}  // namespace neox
