#pragma once
// What kernels/cuda/embedding.cpp asks of embedding.cu and sort.cu. Plain types only (see
// docs/DECISIONS.md 13). rows and width may be 0. The caller checks cudaGetLastError().

#include <cstddef>
#include <cstdint>

#include "core/base/dtype.h"
#include "kernels/cuda/kernel_launch.h"

namespace neox::cuda {

/// EmbeddingOps::embedding; positions and places are both null or both given.
struct Embedding {
  const std::int32_t* ids;
  const void* table;  ///< [n, width]
  std::int64_t first_id, n;
  const std::int32_t* positions;
  const void* places;
  void* y;  ///< [rows, width]
  std::int64_t rows, width;
};
void embedding(const Launch&, DType, const Embedding&);

/// keys[r] = ids[r] - first_id, or n when that lies outside [0, n); order[r] = r.
void embedding_keys(const Launch&, const std::int32_t* ids, std::int64_t rows,
                    std::int64_t first_id, std::int64_t n, std::uint32_t* keys,
                    std::uint32_t* order);

/// table[k] += the rows of dy whose key is k < n, one after the other in their order.
struct EmbeddingSum {
  const std::uint32_t* keys;   ///< [rows], ascending
  const std::uint32_t* order;  ///< [rows]: the row of dy that has the key
  const void* dy;              ///< [rows, width]
  float* dtable;               ///< [n, width]
  std::int64_t rows, width, n;
};
void embedding_sum(const Launch&, DType, const EmbeddingSum&);

/// Pairs in, and sorted by key out; equal keys keep their order. keys < 2^bits.
struct SortPairs {
  const std::uint32_t *keys, *values;
  std::uint32_t *sorted_keys, *sorted_values;
  std::int64_t n;
  int bits;
};
/// Sets `bytes` of workspace for pairs of up to n elements; returns a cudaError_t.
int sort_workspace(const Launch&, std::int64_t n, std::size_t* bytes);
/// Returns a cudaError_t.
int sort_pairs(const Launch&, const SortPairs&, void* workspace, std::size_t bytes);

}  // namespace neox::cuda
