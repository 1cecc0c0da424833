#pragma once
// Attention, forward: flash attention (Dao et al., arXiv:2205.14135 and 2307.08691) on tensor
// cores. A block computes some queries of one head. It walks the keys in tiles that the next copies
// fill while this one is used; each warp keeps 16 or 32 queries, their running maximum and sum, and
// their sum of values in registers.

#include "kernels/cuda/attention_launch.cuh"
#include "kernels/cuda/attention_scores.cuh"
#include "kernels/cuda/attention_tiles.cuh"

namespace neox::cuda {

/// Sizes for which accumulators fit the registers, and tiles the shared memory of an A100 (163 KB).
template <class T, int kWidth>
struct ForwardTiling {
  static constexpr bool kHalf = Planes<T>::kCount == 1;
  static constexpr int kWarps = 4;
  static constexpr int kM = kHalf && kWidth <= 128 ? 2 : 1;  ///< 16 queries each, of a warp
  static constexpr int kKeys = kWidth <= 64 ? 64 : (kHalf ? 32 : 4096 / kWidth);
  static constexpr int kBuffers = kHalf ? 2 : 1;
};

template <class T, int kWidth, class Scores>
struct AttentionForward {
  using Tiling = ForwardTiling<T, kWidth>;
  static constexpr int kM = Tiling::kM, kN = Tiling::kKeys / 8, kBuffers = Tiling::kBuffers;
  static constexpr int kKeys = Tiling::kKeys, kQueries = 16 * kM * Tiling::kWarps;
  static constexpr int kThreads = Tiling::kWarps * kWarp;
  using QueryTile = Tile<T, kQueries, kWidth>;
  using KeyTile = Tile<T, kKeys, kWidth>;
  static constexpr std::size_t kSharedBytes = QueryTile::kBytes + 2 * kBuffers * KeyTile::kBytes;

  AttentionSizes sizes;
  HeadMemory<const T> q, k, v;
  HeadMemory<T> out;
  float* lse;
  Scores scores;
  ProbabilityMask mask;

  AttentionForward(const Attention& a, const Scores& of)
      : sizes(a.sizes),
        q(a.q, a.sizes.head_dim),
        k(a.k, a.sizes.head_dim),
        v(a.v, a.sizes.head_dim),
        out(a.out, a.sizes.head_dim),
        lse(a.lse),
        scores(of),
        mask(a.sizes, a.dropout) {}

  /// What a warp keeps of its queries: row group + 8 half of its m-th 16.
  struct State {
    float values[kM][kWidth / 8][4] = {};
    float most[kM][2], sum[kM][2];  ///< of scores in powers of 2; the lane's own share of the sum
  };

  NEOX_HOST_DEVICE void operator()(const Block& block) const {
    const HeadTask task(block, sizes.batch, sizes.heads, tiles_of(sizes.query_length, kQueries));
    const int first_query = (task.tiles - 1 - task.tile) * kQueries;  // the longest rows first
    const int past_query = min_of(first_query + kQueries, sizes.query_length);
    const Scores of_head = scores.of_head(task.sample, task.head);
    const int begin = of_head.first_key(first_query) / kKeys * kKeys;
    const int end = of_head.end_key(past_query - 1);
    const QueryTile queries{block.shared<typename QueryTile::Half>()};
    load_tile<T, kQueries, kWidth, kThreads>(
        block, q.rows(task.sample, task.head, first_query, sizes.query_length, sizes.head_dim),
        queries);
    State state;
    for (int m = 0; m < kM; ++m) {
      for (int half = 0; half < 2; ++half) {
        state.most[m][half] = -kInfinity;
        state.sum[m][half] = 0.0f;
      }
    }
    const auto next = [&](int from) {
      return next_tile(of_head, sizes, first_query, past_query - 1, from, kKeys);
    };
    int key = next(begin), buffer = 0;
    if constexpr (kBuffers == 2) load_keys(block, task, key, 0);
    while (key < end) {
      const int following = next(key + kKeys);
      block.sync();  // all have read the tiles that the next copies overwrite
      if constexpr (kBuffers == 2) {
        commit_copies(block);
        if (following < end) load_keys(block, task, following, 1 - buffer);
        commit_copies(block);
        wait_copies<1>(block);
      } else {
        load_keys(block, task, key, 0);
        commit_copies(block);
        wait_copies<0>(block);
      }
      block.sync();
      add_keys(block, of_head, task, first_query, key, queries, buffer, state);
      buffer = kBuffers - 1 - buffer;
      key = following;
    }
    commit_copies(block);
    wait_copies<0>(block);
    block.sync();
    finish(block, task, first_query, queries, state);
  }

  NEOX_HOST_DEVICE KeyTile key_tile(const Block& block, int buffer) const {
    return {block.shared<typename KeyTile::Half>(QueryTile::kBytes + 2 * buffer * KeyTile::kBytes)};
  }
  NEOX_HOST_DEVICE KeyTile value_tile(const Block& block, int buffer) const {
    return {block.shared<typename KeyTile::Half>(QueryTile::kBytes +
                                                 (2 * buffer + 1) * KeyTile::kBytes)};
  }
  NEOX_HOST_DEVICE void load_keys(const Block& block, const HeadTask& task, int key,
                                  int buffer) const {
    const int head = task.head / (sizes.heads / sizes.kv_heads);
    load_tile<T, kKeys, kWidth, kThreads>(
        block, k.rows(task.sample, head, key, sizes.key_length, sizes.head_dim),
        key_tile(block, buffer));
    load_tile<T, kKeys, kWidth, kThreads>(
        block, v.rows(task.sample, head, key, sizes.key_length, sizes.head_dim),
        value_tile(block, buffer));
  }

  /// One tile of keys and values.
  NEOX_HOST_DEVICE void add_keys(const Block& block, const Scores& of_head, const HeadTask& task,
                                 int first_query, int key, const QueryTile& queries, int buffer,
                                 State& state) const {
    const int row = block.warp() * 16 * kM, query = first_query + row;
    const bool idle = query >= sizes.query_length || key >= of_head.end_key(query + 16 * kM - 1) ||
                      key + kKeys <= of_head.first_key(query);
    if (idle) return;  // the whole warp
    float s[kM][kN][4] = {};
    multiply_rows<T>(block, queries, row, key_tile(block, buffer), s);
    adjust_scores<false>(block, of_head, sizes, query, key, s);
    add_to_softmax(block, s, state);
    if (mask.active()) {
      const std::uint64_t first = mask.of_head(task.sample, task.head);
      NEOX_UNROLL
      for (int m = 0; m < kM; ++m) {
        mask.drop(mask.template by_queries<kN>(block, first, query + 16 * m, key), s[m]);
      }
    }
    multiply_accumulator<T>(block, s, value_tile(block, buffer), state.values);
  }

  /// Scores become probabilities by the running maximum, to which the sums so far are scaled.
  NEOX_HOST_DEVICE void add_to_softmax(const Block& block, float (&s)[kM][kN][4],
                                       State& state) const {
    const float to_powers = sizes.scale * kLog2E;
    NEOX_UNROLL
    for (int m = 0; m < kM; ++m) {
      NEOX_UNROLL
      for (int half = 0; half < 2; ++half) {
        float most = -kInfinity;
        NEOX_UNROLL
        for (int n = 0; n < kN; ++n) {
          most = fmaxf(most, fmaxf(s[m][n][2 * half], s[m][n][2 * half + 1]));
        }
        most = fmaxf(most, block.shuffle_xor(most, 1));
        most = fmaxf(most, block.shuffle_xor(most, 2));
        most = fmaxf(state.most[m][half], most * to_powers);
        // A query that has seen no key so far subtracts 0: -inf - -inf would be NaN.
        const float less = most == -kInfinity ? 0.0f : most;
        const float rescale = power_of_2(state.most[m][half] - less);
        state.most[m][half] = most;
        float sum = state.sum[m][half] * rescale;
        NEOX_UNROLL
        for (int n = 0; n < kN; ++n) {
          NEOX_UNROLL
          for (int i = 2 * half; i < 2 * half + 2; ++i) {
            s[m][n][i] = power_of_2(s[m][n][i] * to_powers - less);
            sum += s[m][n][i];
          }
        }
        state.sum[m][half] = sum;
        NEOX_UNROLL
        for (int n = 0; n < kWidth / 8; ++n) {
          state.values[m][n][2 * half] *= rescale;
          state.values[m][n][2 * half + 1] *= rescale;
        }
      }
    }
  }

  NEOX_HOST_DEVICE void finish(const Block& block, const HeadTask& task, int first_query,
                               const QueryTile& queries, const State& state) const {
    const int row = block.warp() * 16 * kM;
    float scale[kM][2];
    NEOX_UNROLL
    for (int m = 0; m < kM; ++m) {
      NEOX_UNROLL
      for (int half = 0; half < 2; ++half) {
        float sum = state.sum[m][half];
        sum += block.shuffle_xor(sum, 1);
        sum += block.shuffle_xor(sum, 2);
        const float kept = mask.active() ? mask.scale() : 1.0f;
        scale[m][half] = sum == 0.0f ? 0.0f : kept / sum;
        const int query = first_query + row + 16 * m + 8 * half + block.lane() / 4;
        if (lse != nullptr && block.lane() % 4 == 0 && query < sizes.query_length) {
          const std::int64_t head = std::int64_t{task.sample} * sizes.heads + task.head;
          lse[head * sizes.query_length + query] = (state.most[m][half] + log2f(sum)) * kLn2;
        }
      }
    }
    store_rows<T>(
        block, state.values, scale, queries, row,
        out.rows(task.sample, task.head, first_query, sizes.query_length, sizes.head_dim));
  }
};

template <class T, int kWidth, class Scores>
void launch_forward(const Launch& launch, const Attention& a, const Scores& scores) {
  using Kernel = AttentionForward<T, kWidth, Scores>;
  const AttentionSizes& s = a.sizes;
  const std::int64_t tiles = tiles_of(s.query_length, Kernel::kQueries);
  launch_blocks(launch, {tiles * s.batch * s.heads}, Kernel::kThreads, Kernel::kSharedBytes,
                Kernel(a, scores));
}

}  // namespace neox::cuda
