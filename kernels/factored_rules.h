#pragma once
// What FactoredOps do to one element, for every backend. Plain types only: CUDA sources include it.

#include <cmath>
#include <cstdint>

#include "core/base/host_device.h"

namespace neox {

/// Elements [begin, begin + n) of a slice of a matrix, row-major: the slice is `width` wide, its
/// first element is at (row, column) of the matrix.
struct MatrixPart {
  std::int64_t begin = 0;
  std::int64_t width = 1;
  std::int64_t row = 0;
  std::int64_t column = 0;

  /// Rows of the slice that n elements touch: [first_row, first_row + row_count).
  NEOX_HOST_DEVICE std::int64_t first_row() const { return begin / width; }
  NEOX_HOST_DEVICE std::int64_t row_count(std::int64_t n) const {
    return n == 0 ? 0 : (begin + n - 1) / width - first_row() + 1;
  }
  /// Where the element in the slice's row `r` and column `c` is among the n.
  NEOX_HOST_DEVICE std::int64_t index(std::int64_t r, std::int64_t c) const {
    return r * width + c - begin;
  }
};

/// SM3-II (Anil et al., NeurIPS'19, arXiv:1901.11150, algorithm 2), with the moving average and the
/// momentum of the implementation that GPT-NeoX uses. For the element in row r, column c:
///   nu = keep min(rows[r], columns[c]) + rest g^2
///   u = g / sqrt(nu + eps); with momentum m = momentum m + (1 - momentum) u and u = m
///   p -= lr u + decay p
struct Sm3 {
  float keep;  ///< beta, or 1 when beta = 0 (a sum, not an average)
  float rest;  ///< 1 - beta
  float eps;
  float momentum;
  float lr;
  float decay;  ///< lr * weight_decay

  NEOX_HOST_DEVICE float nu(float g, float least) const { return keep * least + rest * (g * g); }
  NEOX_HOST_DEVICE float direction(float g, float least) const {
    return g / std::sqrt(nu(g, least) + eps);
  }
};

}  // namespace neox
