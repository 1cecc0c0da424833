#pragma once
// What the attention kernels share besides tiles: which block does what, which pairs count.

#include <limits>
#include <type_traits>

#include "kernels/cuda/attention_kernels.h"
#include "kernels/cuda/attention_scores.cuh"
#include "kernels/cuda/block.cuh"

namespace neox::cuda {

inline constexpr float kInfinity = std::numeric_limits<float>::infinity();

NEOX_HOST_DEVICE constexpr int min_of(int a, int b) {
  return a < b ? a : b;
}
NEOX_HOST_DEVICE constexpr int tiles_of(int length, int tile) {
  return (length + tile - 1) / tile;
}

/// The part of a block of a grid of tiles x samples x heads: heads that share keys are neighbours.
struct HeadTask {
  int tiles, tile, sample, head;
  NEOX_HOST_DEVICE HeadTask(const Block& block, int samples, int heads, int of_tiles)
      : tiles(of_tiles) {
    const auto index = static_cast<std::uint32_t>(block.x());
    const auto all_heads = static_cast<std::uint32_t>(heads);
    head = static_cast<int>(index % all_heads);
    const std::uint32_t rest = index / all_heads;
    sample = static_cast<int>(rest % static_cast<std::uint32_t>(samples));
    tile = static_cast<int>(rest / static_cast<std::uint32_t>(samples));
  }
};

/// Adds the bias to q.k (divided by the scale that multiplies both later), and makes -inf of pairs
/// that don't count. Rows of the accumulator are queries from `query` on and columns keys from
/// `key` on, or with kByKeys the other way round.
template <bool kByKeys, class Scores, int kM, int kN>
NEOX_HOST_DEVICE inline void adjust_scores(const Block& block, const Scores& scores,
                                           const AttentionSizes& sizes, int query, int key,
                                           float (&s)[kM][kN][4]) {
  constexpr int kQueries = kByKeys ? 8 * kN : 16 * kM, kKeys = kByKeys ? 16 * kM : 8 * kN;
  const bool whole = key + kKeys <= sizes.key_length &&
                     scores.all_visible(query, query + kQueries - 1, key, key + kKeys - 1);
  const bool biased = Scores::kBiased && scores.biased();
  if (whole && !biased) return;
  const int group = block.lane() / 4, member = block.lane() % 4;
  NEOX_UNROLL
  for (int m = 0; m < kM; ++m) {
    NEOX_UNROLL
    for (int n = 0; n < kN; ++n) {
      NEOX_UNROLL
      for (int e = 0; e < 4; ++e) {
        const int row = 16 * m + e / 2 * 8 + group, column = 8 * n + 2 * member + e % 2;
        const int i = query + (kByKeys ? column : row), j = key + (kByKeys ? row : column);
        if constexpr (Scores::kBiased) {
          if (biased) s[m][n][e] += scores.bias(i, j) / sizes.scale;
        }
        if (!whole && !(j < sizes.key_length && scores.visible(i, j))) s[m][n][e] = -kInfinity;
      }
    }
  }
}

/// The first tile of keys from `key` on of which queries [first, last] see any; tiles lie `tile`
/// apart. Not below key_length: none.
template <class Scores>
NEOX_HOST_DEVICE inline int next_tile(const Scores& scores, const AttentionSizes& sizes,
                                      int first_query, int last_query, int key, int tile) {
  if constexpr (Scores::kSkips) {
    while (key < sizes.key_length &&
           !scores.any_visible(first_query, last_query, key,
                               min_of(key + tile, sizes.key_length) - 1)) {
      key += tile;
    }
  }
  return key;
}

/// Calls f(zero of the dtype, padded width of a head as an integral constant).
template <class F>
void visit_attention(DType dtype, int head_dim, F&& f) {
  visit_float(dtype, [&](auto zero) {
    if (head_dim <= 32) return f(zero, std::integral_constant<int, 32>{});
    if (head_dim <= 64) return f(zero, std::integral_constant<int, 64>{});
    if (head_dim <= 128) return f(zero, std::integral_constant<int, 128>{});
    f(zero, std::integral_constant<int, kMaxHeadDim>{});
  });
}

}  // namespace neox::cuda
