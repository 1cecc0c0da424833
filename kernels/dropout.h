#pragma once
// Which elements dropout keeps: the arithmetic that every backend shares, also from inside kernels.

#include <cmath>
#include <cstdint>

#include "core/base/host_device.h"
#include "core/base/rng.h"

namespace neox {

/// Where in the run a micro-batch is, in device memory: recorded work (WorkGraph) keeps its
/// arguments, so its kernels read here what is new in every call.
struct DropoutPosition {
  std::uint64_t step = 0;
  std::int64_t first_sample = 0;
};

/// Dropout of a tensor [rows, width] whose rows are tokens. An element is kept when the Philox draw
/// of its *global* index is >= p, and then scaled by 1/(1-p); so masks do not depend on the layout.
/// Global index of (row r, column c), with sample = first_sample + r / local_seq and
/// position = first_position + r % local_seq: (sample * global_seq + position) * width + c.
/// Hence rows [first_row, first_row + n) of the flat rows [samples * seq] of a micro-batch (a shard
/// of sequence parallelism, which may begin and end inside a sample) are described by
/// local_seq = global_seq = seq and first_position = first_row, which may be >= seq: the index is
/// then (first_sample * seq + first_row + r) * width + c, linear in r across samples.
struct Dropout {
  float p = 0.0f;  ///< probability of zero; 0 is the identity
  RngKey key{};
  std::int64_t first_sample = 0;    ///< index of row 0's sample in the global batch
  std::int64_t local_seq = 1;       ///< rows per sample held here
  std::int64_t first_position = 0;  ///< position of a sample's first row held here
  std::int64_t global_seq = 1;      ///< positions per sample
  /// In memory of the device. When given, `key` is an RngKey::stem, and first_sample is not read.
  const DropoutPosition* position = nullptr;
};

/// Where the kernel runs, or, without a position, anywhere.
NEOX_HOST_DEVICE inline RngKey key_of(const Dropout& d) {
  return d.position == nullptr ? d.key : d.key.at_step(d.position->step);
}

/// Global index of the first element of row r; the formula above.
NEOX_HOST_DEVICE inline std::int64_t first_element(const Dropout& d, std::int64_t row,
                                                   std::int64_t width) {
  const std::int64_t first = d.position == nullptr ? d.first_sample : d.position->first_sample;
  const std::int64_t sample = first + row / d.local_seq;
  const std::int64_t position = d.first_position + row % d.local_seq;
  return (sample * d.global_seq + position) * width;
}

/// Keeps an element when uniform01(word) >= p, decided on integers: word >> 8 >= ceil(p 2^24).
struct KeepRule {
  std::int32_t threshold;
  float scale;
  explicit KeepRule(float p)
      : threshold(static_cast<std::int32_t>(std::ceil(static_cast<double>(p) * 0x1p24))),
        scale(1.0f / (1.0f - p)) {}
  NEOX_HOST_DEVICE float apply(std::uint32_t word, float x) const {
    return static_cast<std::int32_t>(word >> 8) >= threshold ? x * scale : 0.0f;
  }
};

}  // namespace neox
