#pragma once
// Order statistics of measurements.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <utility>
#include <vector>

namespace neox {

/// The value that the part `q` (from 0 to 1) of all are below, interpolated; 0 without any.
inline double quantile(std::vector<double> values, double q) {
  if (values.empty()) return 0.0;
  std::sort(values.begin(), values.end());
  const double place = q * static_cast<double>(values.size() - 1);
  const auto below = static_cast<std::size_t>(place);
  const std::size_t above = std::min(below + 1, values.size() - 1);
  return std::lerp(values[below], values[above], place - std::floor(place));
}

/// The mean of the two in the middle where their number is even.
inline double median(std::vector<double> values) {
  return quantile(std::move(values), 0.5);
}

}  // namespace neox
