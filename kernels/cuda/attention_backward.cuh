#pragma once
// Attention, backward, in two passes that share the scores' arithmetic and write every element
// once: one over blocks of queries for dq, one over blocks of keys for dk and dv. It costs 7
// products where atomic sums of dq would need 5, and gives the same bits in every run.
//
// P = exp(scale q.k + bias - lse), M = the factors of dropout, delta = rowsum(dout out):
//   dv = (P M)^T dout,  dS = P (M dout.v - delta),  dq = scale dS k,  dk = scale dS^T q.

#include "kernels/cuda/attention_launch.cuh"
#include "kernels/cuda/attention_scores.cuh"
#include "kernels/cuda/attention_tiles.cuh"

namespace neox::cuda {

/// Sizes for which accumulators fit the registers, and tiles the shared memory of an A100 (163 KB).
template <class T, int kWidth>
struct BackwardTiling {
  static constexpr bool kHalf = Planes<T>::kCount == 1;
  static constexpr int kWarps = kHalf || kWidth <= 128 ? 4 : 2;
  static constexpr int kRows = 16 * kWarps;  ///< of the block's own tiles
  static constexpr int kLoop = kWidth <= 64 ? 64 : (kHalf ? 32 : 4096 / kWidth);  ///< of the others
  static constexpr int kBuffers = kHalf ? 2 : 1;
  /// dk and dv one after the other, because the registers hold one of them.
  static constexpr bool kApart = kWidth > (kHalf ? 128 : 64);
};

/// delta, by 8 lanes for each row of out.
template <class T>
struct RowDots {
  static constexpr int kThreads = 256;
  static constexpr int kRows = kThreads / 8;
  AttentionSizes sizes;
  HeadMemory<const T> out, dout;
  float* delta;

  NEOX_HOST_DEVICE void operator()(const Block& block) const {
    const std::int64_t rows = std::int64_t{sizes.batch} * sizes.query_length * sizes.heads;
    const std::int64_t row = block.x() * kRows + block.thread() / 8;
    const bool inside = row < rows;
    const auto at = static_cast<std::uint32_t>(inside ? row : 0);
    const auto heads = static_cast<std::uint32_t>(sizes.heads);
    const auto length = static_cast<std::uint32_t>(sizes.query_length);
    const int head = static_cast<int>(at % heads), query = static_cast<int>(at / heads % length),
              sample = static_cast<int>(at / heads / length);
    const T* a = out.rows(sample, head, query, sizes.query_length, sizes.head_dim).first;
    const T* b = dout.rows(sample, head, query, sizes.query_length, sizes.head_dim).first;
    float sum = 0.0f;
    const int lane = block.thread() % 8;
    if (out.vectors && dout.vectors) {
      constexpr int kN = kVector<T>;
      for (int c = lane * kN; c < sizes.head_dim; c += 8 * kN) {
        float x[kN], y[kN];
        load<kN>(a + c, x);
        load<kN>(b + c, y);
        for (int i = 0; i < kN; ++i) sum += x[i] * y[i];
      }
    } else {
      for (int c = lane; c < sizes.head_dim; c += 8) sum += to_float(a[c]) * to_float(b[c]);
    }
    NEOX_UNROLL
    for (int mask = 4; mask > 0; mask /= 2) sum += block.shuffle_xor(sum, mask);
    if (inside && lane == 0) {
      delta[(std::int64_t{sample} * sizes.heads + head) * sizes.query_length + query] = sum;
    }
  }
};

/// What both passes know.
template <class T, int kWidth, class Scores>
struct BackwardPass {
  using Tiling = BackwardTiling<T, kWidth>;
  static constexpr int kThreads = Tiling::kWarps * kWarp, kBuffers = Tiling::kBuffers;
  static constexpr int kRows = Tiling::kRows, kLoop = Tiling::kLoop, kN = kLoop / 8;
  using OwnTile = Tile<T, kRows, kWidth>;
  using LoopTile = Tile<T, kLoop, kWidth>;
  static constexpr std::size_t kTileBytes = 2 * OwnTile::kBytes + 2 * kBuffers * LoopTile::kBytes;
  using Half = typename OwnTile::Half;

  AttentionSizes sizes;
  HeadMemory<const T> q, k, v, dout;
  const float *lse, *delta;
  HeadMemory<T> dq, dk, dv;
  Scores scores;
  ProbabilityMask mask;

  BackwardPass(const AttentionGradient& a, const Scores& of)
      : sizes(a.sizes),
        q(a.q, a.sizes.head_dim),
        k(a.k, a.sizes.head_dim),
        v(a.v, a.sizes.head_dim),
        dout(a.dout, a.sizes.head_dim),
        lse(a.lse),
        delta(a.delta),
        dq(a.dq, a.sizes.head_dim),
        dk(a.dk, a.sizes.head_dim),
        dv(a.dv, a.sizes.head_dim),
        scores(of),
        mask(a.sizes, a.dropout) {}

  /// The block's own tiles: q and dout, or k and v.
  NEOX_HOST_DEVICE OwnTile own(const Block& block, int which) const {
    return {block.shared<Half>(which * OwnTile::kBytes)};
  }
  /// The tiles that it walks over.
  NEOX_HOST_DEVICE LoopTile walked(const Block& block, int which, int buffer) const {
    return {block.shared<Half>(2 * OwnTile::kBytes + (2 * buffer + which) * LoopTile::kBytes)};
  }
  template <int kTileRows>
  NEOX_HOST_DEVICE void load_queries(const Block& block, const HeadMemory<const T>& from,
                                     int sample, int head, int query,
                                     const Tile<T, kTileRows, kWidth>& to) const {
    load_tile<T, kTileRows, kWidth, kThreads>(
        block, from.rows(sample, head, query, sizes.query_length, sizes.head_dim), to);
  }
  template <int kTileRows>
  NEOX_HOST_DEVICE void load_keys(const Block& block, const HeadMemory<const T>& from, int sample,
                                  int kv_head, int key,
                                  const Tile<T, kTileRows, kWidth>& to) const {
    load_tile<T, kTileRows, kWidth, kThreads>(
        block, from.rows(sample, kv_head, key, sizes.key_length, sizes.head_dim), to);
  }

  /// The log of a query's softmax denominator in powers of 2. Infinite, which makes all its
  /// probabilities 0, behind the last query and where the query sees no key.
  NEOX_HOST_DEVICE float log_denominator(int sample, int head, int query) const {
    if (query >= sizes.query_length) return kInfinity;
    const float value = lse[statistics_at(sample, head, query)];
    return value == -kInfinity ? kInfinity : value * kLog2E;
  }
  NEOX_HOST_DEVICE float delta_of(int sample, int head, int query) const {
    return query < sizes.query_length ? delta[statistics_at(sample, head, query)] : 0.0f;
  }
  NEOX_HOST_DEVICE std::int64_t statistics_at(int sample, int head, int query) const {
    return (std::int64_t{sample} * sizes.heads + head) * sizes.query_length + query;
  }
  NEOX_HOST_DEVICE float probability(float score, float log_denominator) const {
    return power_of_2(score * (sizes.scale * kLog2E) - log_denominator);
  }
  /// Multiplies gradients of probabilities by M.
  NEOX_HOST_DEVICE void apply(std::uint32_t kept, float (&d)[1][kN][4]) const {
    NEOX_UNROLL
    for (int i = 0; i < 4 * kN; ++i) d[0][i / 4][i % 4] *= mask.scale();
    mask.drop(kept, d[0]);
  }
};

/// dq of a block of queries.
template <class T, int kWidth, class Scores>
struct QueryGradient : BackwardPass<T, kWidth, Scores> {
  using Pass = BackwardPass<T, kWidth, Scores>;
  using Pass::kBuffers, Pass::kLoop, Pass::kN, Pass::kRows, Pass::sizes;
  static constexpr std::size_t kSharedBytes = Pass::kTileBytes;
  using Pass::Pass;

  NEOX_HOST_DEVICE void operator()(const Block& block) const {
    const HeadTask task(block, sizes.batch, sizes.heads, tiles_of(sizes.query_length, kRows));
    const int first_query = (task.tiles - 1 - task.tile) * kRows;  // the longest rows first
    const Scores of_head = this->scores.of_head(task.sample, task.head);
    const int begin = of_head.first_key(first_query) / kLoop * kLoop;
    const int end = of_head.end_key(min_of(first_query + kRows, sizes.query_length) - 1);
    this->load_queries(block, this->q, task.sample, task.head, first_query, this->own(block, 0));
    this->load_queries(block, this->dout, task.sample, task.head, first_query, this->own(block, 1));
    float logs[2], deltas[2];
    for (int half = 0; half < 2; ++half) {
      const int query = first_query + block.warp() * 16 + block.lane() / 4 + 8 * half;
      logs[half] = this->log_denominator(task.sample, task.head, query);
      deltas[half] = this->delta_of(task.sample, task.head, query);
    }
    float sum[1][kWidth / 8][4] = {};
    const auto next = [&](int from) {
      const int last_query = min_of(first_query + kRows, sizes.query_length) - 1;
      return next_tile(of_head, sizes, first_query, last_query, from, kLoop);
    };
    int key = next(begin), buffer = 0;
    if constexpr (kBuffers == 2) load(block, task, key, 0);
    while (key < end) {
      const int following = next(key + kLoop);
      block.sync();  // all have read the tiles that the next copies overwrite
      if constexpr (kBuffers == 2) {
        commit_copies(block);
        if (following < end) load(block, task, following, 1 - buffer);
        commit_copies(block);
        wait_copies<1>(block);
      } else {
        load(block, task, key, 0);
        commit_copies(block);
        wait_copies<0>(block);
      }
      block.sync();
      add_keys(block, of_head, task, first_query, key, buffer, logs, deltas, sum);
      buffer = kBuffers - 1 - buffer;
      key = following;
    }
    commit_copies(block);
    wait_copies<0>(block);
    block.sync();
    const float scale[1][2] = {{sizes.scale, sizes.scale}};
    store_rows<T>(
        block, sum, scale, this->own(block, 0), block.warp() * 16,
        this->dq.rows(task.sample, task.head, first_query, sizes.query_length, sizes.head_dim));
  }

  NEOX_HOST_DEVICE void load(const Block& block, const HeadTask& task, int key, int buffer) const {
    const int head = task.head / (sizes.heads / sizes.kv_heads);
    this->load_keys(block, this->k, task.sample, head, key, this->walked(block, 0, buffer));
    this->load_keys(block, this->v, task.sample, head, key, this->walked(block, 1, buffer));
  }

  NEOX_HOST_DEVICE void add_keys(const Block& block, const Scores& of_head, const HeadTask& task,
                                 int first_query, int key, int buffer, const float (&logs)[2],
                                 const float (&deltas)[2], float (&sum)[1][kWidth / 8][4]) const {
    const int row = block.warp() * 16, query = first_query + row;
    const bool idle = query >= sizes.query_length || key >= of_head.end_key(query + 15) ||
                      key + kLoop <= of_head.first_key(query);
    if (idle) return;  // the whole warp
    float s[1][kN][4] = {}, ds[1][kN][4] = {};
    multiply_rows<T>(block, this->own(block, 0), row, this->walked(block, 0, buffer), s);
    multiply_rows<T>(block, this->own(block, 1), row, this->walked(block, 1, buffer), ds);
    adjust_scores<false>(block, of_head, sizes, query, key, s);
    if (this->mask.active()) {
      this->apply(this->mask.template by_queries<kN>(
                      block, this->mask.of_head(task.sample, task.head), query, key),
                  ds);
    }
    NEOX_UNROLL
    for (int n = 0; n < kN; ++n) {
      NEOX_UNROLL
      for (int e = 0; e < 4; ++e) {
        const float p = this->probability(s[0][n][e], logs[e / 2]);
        ds[0][n][e] = p * (ds[0][n][e] - deltas[e / 2]);
      }
    }
    multiply_accumulator<T>(block, ds, this->walked(block, 0, buffer), sum);
  }
};

/// dk and dv, or one of them, of a block of keys: the sum over all queries of all heads that read
/// them.
template <class T, int kWidth, class Scores, bool kKeys, bool kValues>
struct KeyGradient : BackwardPass<T, kWidth, Scores> {
  using Pass = BackwardPass<T, kWidth, Scores>;
  using Pass::kBuffers, Pass::kLoop, Pass::kN, Pass::kRows, Pass::kTileBytes, Pass::sizes;
  static constexpr std::size_t kStatistics = 2 * kLoop;  ///< floats of a buffer
  static constexpr std::size_t kSharedBytes = kTileBytes + kBuffers * kStatistics * sizeof(float);
  using Pass::Pass;

  struct Sums {
    float dk[1][kWidth / 8][4] = {};
    float dv[1][kWidth / 8][4] = {};
  };
  /// The tiles of queries that a block walks over: those of one head after those of another.
  struct Walk {
    int first_head, begin, tiles, steps;
    NEOX_HOST_DEVICE int head(int step) const { return first_head + step / tiles; }
    NEOX_HOST_DEVICE int query(int step) const { return begin + step % tiles * kLoop; }
  };

  NEOX_HOST_DEVICE void operator()(const Block& block) const {
    const HeadTask task(block, sizes.batch, sizes.kv_heads, tiles_of(sizes.key_length, kRows));
    const int first_key = task.tile * kRows;
    const int group = sizes.heads / sizes.kv_heads, first_head = task.head * group;
    const Scores of_first = this->scores.of_head(task.sample, first_head);
    const int begin = of_first.first_query(first_key) / kLoop * kLoop;
    const int end = of_first.end_query(min_of(first_key + kRows, sizes.key_length) - 1);
    const int tiles = begin < end ? tiles_of(end - begin, kLoop) : 0;
    const Walk walk{first_head, begin, tiles, tiles * group};
    this->load_keys(block, this->k, task.sample, task.head, first_key, this->own(block, 0));
    if constexpr (kKeys) {
      this->load_keys(block, this->v, task.sample, task.head, first_key, this->own(block, 1));
    }
    Sums sums;
    int step = next_step(task, walk, 0, first_key), buffer = 0;
    if constexpr (kBuffers == 2) load(block, task, walk, step, 0);
    while (step < walk.steps) {
      const int following = next_step(task, walk, step + 1, first_key);
      block.sync();  // all have read the tiles that the next copies overwrite
      if constexpr (kBuffers == 2) {
        commit_copies(block);
        if (following < walk.steps) load(block, task, walk, following, 1 - buffer);
        commit_copies(block);
        wait_copies<1>(block);
      } else {
        load(block, task, walk, step, 0);
        commit_copies(block);
        wait_copies<0>(block);
      }
      block.sync();
      add_queries(block, task.sample, walk.head(step), walk.query(step), first_key, buffer, sums);
      buffer = kBuffers - 1 - buffer;
      step = following;
    }
    commit_copies(block);
    wait_copies<0>(block);
    block.sync();
    finish(block, task, first_key, sums);
  }

  /// The first step from `step` on in which a query sees any of the block's keys.
  NEOX_HOST_DEVICE int next_step(const HeadTask& task, const Walk& walk, int step,
                                 int first_key) const {
    if constexpr (Scores::kSkips) {
      const int last_key = min_of(first_key + kRows, sizes.key_length) - 1;
      for (; step < walk.steps; ++step) {
        const int query = walk.query(step);
        const int last_query = min_of(query + kLoop, sizes.query_length) - 1;
        const Scores of_head = this->scores.of_head(task.sample, walk.head(step));
        if (of_head.any_visible(query, last_query, first_key, last_key)) break;
      }
    }
    return step;
  }

  NEOX_HOST_DEVICE float* statistics(const Block& block, int buffer) const {
    return block.shared<float>(kTileBytes + buffer * kStatistics * sizeof(float));
  }

  NEOX_HOST_DEVICE void load(const Block& block, const HeadTask& task, const Walk& walk, int step,
                             int buffer) const {
    if (step >= walk.steps) return;
    const int head = walk.head(step), query = walk.query(step);
    this->load_queries(block, this->q, task.sample, head, query, this->walked(block, 0, buffer));
    this->load_queries(block, this->dout, task.sample, head, query, this->walked(block, 1, buffer));
    if (block.thread() < kLoop) {
      float* to = statistics(block, buffer) + block.thread();
      to[0] = this->log_denominator(task.sample, head, query + block.thread());
      to[kLoop] = this->delta_of(task.sample, head, query + block.thread());
    }
  }

  NEOX_HOST_DEVICE void add_queries(const Block& block, int sample, int head, int query,
                                    int first_key, int buffer, Sums& sums) const {
    const Scores of_head = this->scores.of_head(sample, head);
    const int row = block.warp() * 16, key = first_key + row, member = block.lane() % 4;
    const bool idle = key >= sizes.key_length || query + kLoop <= of_head.first_query(key) ||
                      query >= of_head.end_query(key + 15);
    if (idle) return;  // the whole warp
    const auto queries = this->walked(block, 0, buffer), douts = this->walked(block, 1, buffer);
    float p[1][kN][4] = {};
    multiply_rows<T>(block, this->own(block, 0), row, queries, p);
    adjust_scores<true>(block, of_head, sizes, query, key, p);
    std::uint32_t kept = 0;
    if (this->mask.active()) {
      kept = this->mask.template by_keys<kN>(block, this->mask.of_head(sample, head), key, query);
    }
    const float* of_query = statistics(block, buffer) + 2 * member;
    NEOX_UNROLL
    for (int n = 0; n < kN; ++n) {
      NEOX_UNROLL
      for (int e = 0; e < 4; ++e) {
        p[0][n][e] = this->probability(p[0][n][e], of_query[8 * n + e % 2]);
      }
    }
    if constexpr (kKeys) {
      float ds[1][kN][4] = {};
      multiply_rows<T>(block, this->own(block, 1), row, douts, ds);
      if (this->mask.active()) this->apply(kept, ds);
      NEOX_UNROLL
      for (int n = 0; n < kN; ++n) {
        NEOX_UNROLL
        for (int e = 0; e < 4; ++e) {
          ds[0][n][e] = p[0][n][e] * (ds[0][n][e] - of_query[kLoop + 8 * n + e % 2]);
        }
      }
      multiply_accumulator<T>(block, ds, queries, sums.dk);
    }
    if constexpr (kValues) {
      if (this->mask.active()) this->mask.drop(kept, p[0]);
      multiply_accumulator<T>(block, p, douts, sums.dv);
    }
  }

  NEOX_HOST_DEVICE void finish(const Block& block, const HeadTask& task, int first_key,
                               const Sums& sums) const {
    const int row = block.warp() * 16;
    if constexpr (kKeys) {
      const float scale[1][2] = {{sizes.scale, sizes.scale}};
      store_rows<T>(
          block, sums.dk, scale, this->own(block, 0), row,
          this->dk.rows(task.sample, task.head, first_key, sizes.key_length, sizes.head_dim));
    }
    if constexpr (kValues) {
      const float kept = this->mask.active() ? this->mask.scale() : 1.0f;
      const float scale[1][2] = {{kept, kept}};
      store_rows<T>(
          block, sums.dv, scale, this->own(block, 1), row,
          this->dv.rows(task.sample, task.head, first_key, sizes.key_length, sizes.head_dim));
    }
  }
};

template <class Kernel, class Scores>
void launch_pass(const Launch& launch, const AttentionGradient& a, const Scores& scores, int heads,
                 int length) {
  const std::int64_t tiles = tiles_of(length, Kernel::kRows);
  launch_blocks(launch, {tiles * a.sizes.batch * heads}, Kernel::kThreads, Kernel::kSharedBytes,
                Kernel(a, scores));
}

template <class T>
void launch_delta(const Launch& launch, const AttentionGradient& a) {
  const AttentionSizes& s = a.sizes;
  const std::int64_t rows = std::int64_t{s.batch} * s.query_length * s.heads;
  const RowDots<T> kernel{s, HeadMemory<const T>(a.out, s.head_dim),
                          HeadMemory<const T>(a.dout, s.head_dim), a.delta};
  launch_blocks(launch, {(rows + kernel.kRows - 1) / kernel.kRows}, kernel.kThreads, 0, kernel);
}

template <class T, int kWidth, class Scores>
void launch_backward(const Launch& launch, const AttentionGradient& a, const Scores& scores) {
  const AttentionSizes& s = a.sizes;
  launch_delta<T>(launch, a);
  launch_pass<QueryGradient<T, kWidth, Scores>>(launch, a, scores, s.heads, s.query_length);
  const auto keys = [&](auto with_keys, auto with_values) {
    launch_pass<KeyGradient<T, kWidth, Scores, with_keys(), with_values()>>(
        launch, a, scores, s.kv_heads, s.key_length);
  };
  if constexpr (BackwardTiling<T, kWidth>::kApart) {
    keys(std::false_type{}, std::true_type{});
    keys(std::true_type{}, std::false_type{});
  } else {
    keys(std::true_type{}, std::true_type{});
  }
}

}  // namespace neox::cuda
