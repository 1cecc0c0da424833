#pragma once
// The order in which a run takes the samples of its training set when some are left out.

#include <cstdint>
#include <span>
#include <vector>

#include "core/base/sample_ranges.h"

namespace neox {

/// A position p = 0, 1, 2, ... stands for sample p mod size: after the last sample the order starts
/// again, so that a run which leaves samples out still finds as many as it needs. A sample that is
/// left out is so in every pass.
class SampleOrder {
 public:
  SampleOrder() = default;
  /// `skipped` may overlap and go beyond `size`. Throws Error when nothing is left.
  SampleOrder(std::int64_t size, std::span<const SampleRange> skipped);

  std::int64_t size() const { return size_; }
  /// Samples of one pass that are not left out.
  std::int64_t kept() const { return kept_; }
  std::int64_t sample(std::int64_t position) const { return position % size_; }
  /// Positions below `position` whose samples are not left out.
  std::int64_t kept_before(std::int64_t position) const;
  /// The position of the n-th (n = 0, 1, ...) sample from `position` on that is not left out.
  std::int64_t find(std::int64_t position, std::int64_t n) const;
  /// The samples at positions [begin, end), as merged ranges.
  std::vector<SampleRange> samples_of(std::int64_t begin, std::int64_t end) const;

 private:
  std::int64_t size_ = 0, kept_ = 0;
  std::vector<SampleRange> skipped_;            // merged, below size_
  std::vector<std::int64_t> kept_before_each_;  // of skipped_: kept samples below it
};

}  // namespace neox
