// Blocked causal attention, backward.
//
// Scores are computed as S [queries, keys], so that P and dS feed all three gradient products
// without a transposition:  P = exp(scale q.k - lse),  dP = dout.v,  dS = P (dP - delta), dv = P^T
// dout,  dk = scale dS^T q,  dq = scale dS k,  delta = rowsum(dout out).
//
// Fused: a task is one K/V head; it walks the key blocks, keeps dk and dv of one and adds to dq of
// all queries. With fewer K/V heads than threads can share evenly, two passes over smaller tasks
// compute P twice: one for dk and dv by key block, one for dq by query block. Both ways add in the
// same order and give the same bits.
#include <cmath>
#include <limits>
#include <numbers>
#include <utility>

#include <omp.h>

#include "kernels/cpu/attention_common.h"

namespace neox::cpu {
namespace {

bool fused(const AttentionProblem& p, int threads) {
  // 5 products fused, 7 in two passes: fusing wins while 5/7 of the threads are busy on average.
  const std::int64_t tasks = p.batch * p.kv_heads;
  return tasks * 7 >= div_up(tasks, threads) * threads * 5;
}

// One K/V head's sum of dq over key blocks.
std::int64_t query_gradient_floats(const AttentionProblem& p) {
  return p.heads / p.kv_heads * round_up(p.query_length, kQueryBlock) *
         round_up(p.head_dim, kLanes);
}

struct BackwardTensors {
  ConstHeads q, k, v;
  const std::byte* out;
  const std::byte* dout;
  const float* lse;
  float* delta;  // [batch, heads, query_length]
  Heads dq, dk, dv;
};

template <class P, class T>
class BackwardTask {
  using S = typename P::Simd;
  using F = typename P::F;
  using Word = typename P::Word;
  static constexpr std::int64_t kRows = kTileRows<S>;
  static constexpr std::int64_t kKeys = P::kKeyBlock;
  static constexpr int kVectors = P::kScoreVectors;
  static constexpr std::int64_t kPrefetchRows = 12;  // for one score tile

 public:
  BackwardTask(const AttentionProblem& p, const BackwardTensors& t, std::byte* memory)
      : p_(p),
        mask_(mask_of(p)),
        t_(t),
        group_(p.heads / p.kv_heads),
        offset_(p.key_length - p.query_length),
        steps_(div_up(p.head_dim, P::kPair)),
        word_ld_(round_up(steps_, kLanes)),
        dim_(round_up(p.head_dim, kLanes)) {
    Carver carve(memory);
    keys_t_ = carve.take<Word>(word_ld_ * kKeys);
    values_t_ = carve.take<Word>(word_ld_ * kKeys);
    key_pairs_ = carve.take<Word>(kKeys / P::kPair * dim_);
    q_rows_ = carve.take<Word>(kQueryBlock * word_ld_);
    dout_rows_ = carve.take<Word>(kQueryBlock * word_ld_);
    probs_ = carve.take<Word>(kQueryBlock / P::kPair * kKeys);
    ds_columns_ = carve.take<Word>(kQueryBlock / P::kPair * kKeys);
    if constexpr (P::kPair == 1) {  // one layout serves both uses
      q_pairs_ = q_rows_;
      dout_pairs_ = dout_rows_;
      ds_rows_ = ds_columns_;
    } else {
      q_pairs_ = carve.take<Word>(kQueryBlock / P::kPair * dim_);
      dout_pairs_ = carve.take<Word>(kQueryBlock / P::kPair * dim_);
      ds_rows_ = carve.take<Word>(kQueryBlock * kKeys / P::kPair);
    }
    dk_ = carve.take<float>(kKeys * dim_);
    dv_ = carve.take<float>(kKeys * dim_);
    dq_block_ = carve.take<float>(kQueryBlock * dim_);
    lse2_ = carve.take<float>(kQueryBlock);
    delta_ = carve.take<float>(kQueryBlock);
    if (p.dropout.p > 0.0f) keep_ = carve.take<float>(kQueryBlock * kKeys);
    bytes_ = carve.used();
  }
  std::size_t bytes() const { return bytes_; }

  /// delta of one row (sample, query, head) of out and dout.
  void compute_delta(std::int64_t row) const {
    const std::int64_t head = row % p_.heads;
    const std::int64_t query = row / p_.heads % p_.query_length;
    const std::int64_t sample = row / p_.heads / p_.query_length;
    const T* out = reinterpret_cast<const T*>(t_.out) + row * p_.head_dim;
    const T* dout = reinterpret_cast<const T*>(t_.dout) + row * p_.head_dim;
    F sum = simd::Floats{};
    for (std::int64_t d = 0; d < p_.head_dim; d += kLanes) {
      sum = S::multiply_add(S::load_elements(out + d, p_.head_dim - d),
                            S::load_elements(dout + d, p_.head_dim - d), sum);
    }
    t_.delta[(sample * p_.heads + head) * p_.query_length + query] = S::reduce_add(sum);
  }

  /// dq, dk and dv of one K/V head; `dq` is memory of query_gradient_floats().
  void run_fused(std::int64_t sample, std::int64_t kv_head, float* dq) {
    const std::int64_t head_floats = round_up(p_.query_length, kQueryBlock) * dim_;
    std::fill_n(dq, group_ * head_floats, 0.0f);
    for (std::int64_t j = 0; j < p_.key_length; j += kKeys) {
      run_key_block<true>(sample, kv_head, j, dq);
    }
    for (std::int64_t g = 0; g < group_; ++g) {
      write(t_.dq, sample, 0, kv_head * group_ + g, p_.query_length, dq + g * head_floats,
            p_.scale);
    }
  }

  /// dk and dv of keys [first, first + kKeys) of one K/V head, and with kQueries their part of dq.
  template <bool kQueries>
  void run_key_block(std::int64_t sample, std::int64_t kv_head, std::int64_t first, float* dq) {
    const std::int64_t n = std::min(kKeys, p_.key_length - first);
    const std::int64_t head_floats = round_up(p_.query_length, kQueryBlock) * dim_;
    pack_keys(sample, kv_head, first, n);
    std::fill_n(dk_, kKeys * dim_, 0.0f);
    std::fill_n(dv_, kKeys * dim_, 0.0f);
    const std::int64_t first_query =
        std::max<std::int64_t>(0, first - offset_) / kQueryBlock * kQueryBlock;
    const std::int64_t end_query = mask_.end_query(index(sample), index(first + n - 1));
    for (std::int64_t g = 0; g < group_; ++g) {
      for (std::int64_t i = first_query; i < end_query; i += kQueryBlock) {
        const std::int64_t count = std::min(kQueryBlock, p_.query_length - i);
        const std::int64_t diagonal = i + offset_ - first;
        if (!keeps_any(kv_head * group_ + g, i, count, first, n)) continue;
        pack_queries(sample, kv_head * group_ + g, i, count);
        prefetch_after(sample, kv_head, g, i, first, {first_query, end_query});
        score(sample, kv_head * group_ + g, i, count, first, n);
        add_key_gradients(count, n, diagonal);
        if constexpr (kQueries) {
          add_query_gradient(count, n, diagonal, dq + g * head_floats + i * dim_);
        }
      }
    }
    write(t_.dk, sample, first, kv_head, n, dk_, p_.scale);
    write(t_.dv, sample, first, kv_head, n, dv_, 1.0f);
  }

  /// dq of queries [first, first + 64) of one head.
  void run_query_block(std::int64_t sample, std::int64_t head, std::int64_t first) {
    const std::int64_t count = std::min(kQueryBlock, p_.query_length - first);
    pack_queries(sample, head, first, count);
    std::fill_n(dq_block_, kQueryBlock * dim_, 0.0f);
    const std::int64_t begin = mask_.first_key(index(sample), index(first)) / kKeys * kKeys;
    for (std::int64_t j = begin; j < first + count + offset_; j += kKeys) {
      const std::int64_t n = std::min(kKeys, p_.key_length - j);
      if (!keeps_any(head, first, count, j, n)) continue;
      pack_keys(sample, head / group_, j, n);
      prefetcher_.clear();
      if (j + kKeys < first + count + offset_) prefetch_keys(sample, head / group_, j + kKeys);
      score(sample, head, first, count, j, n);
      add_query_gradient(count, n, first + offset_ - j, dq_block_);
    }
    write(t_.dq, sample, first, head, count, dq_block_, p_.scale);
  }

 private:
  bool keeps_any(std::int64_t head, std::int64_t first_query, std::int64_t count,
                 std::int64_t first_key, std::int64_t n) const {
    return mask_.keeps_any(index(head), index(first_query), index(first_query + count - 1),
                           index(first_key), index(first_key + n - 1));
  }

  void pack_keys(std::int64_t sample, std::int64_t kv_head, std::int64_t first, std::int64_t n) {
    const T* k = row_of<T>(t_.k, sample, first, kv_head);
    const T* v = row_of<T>(t_.v, sample, first, kv_head);
    P::pack_transposed(k, t_.k.row_stride, n, p_.head_dim, keys_t_, kKeys);
    P::pack_transposed(v, t_.v.row_stride, n, p_.head_dim, values_t_, kKeys);
    P::pack_pairs(k, t_.k.row_stride, n, round_up(n, P::kPair), p_.head_dim, key_pairs_, dim_);
  }

  void pack_queries(std::int64_t sample, std::int64_t head, std::int64_t first,
                    std::int64_t count) {
    const std::int64_t rows = round_up(count, kRows);
    const std::int64_t width = p_.heads * p_.head_dim;
    const T* q = row_of<T>(t_.q, sample, first, head);
    const T* dout = dout_row(sample, first, head);
    P::pack_rows(q, t_.q.row_stride, count, rows, p_.head_dim, q_rows_, word_ld_);
    P::pack_rows(dout, width, count, rows, p_.head_dim, dout_rows_, word_ld_);
    if constexpr (P::kPair > 1) {
      P::pack_pairs(q, t_.q.row_stride, count, rows, p_.head_dim, q_pairs_, dim_);
      P::pack_pairs(dout, width, count, rows, p_.head_dim, dout_pairs_, dim_);
    }
    const std::int64_t at = (sample * p_.heads + head) * p_.query_length + first;
    for (std::int64_t i = 0; i < rows; ++i) {
      // Rows past the end get probability 2^-inf = 0.
      lse2_[i] = i < count ? t_.lse[at + i] * std::numbers::log2e_v<float>
                           : std::numeric_limits<float>::infinity();
      delta_[i] = i < count ? t_.delta[at + i] : 0.0f;
    }
  }

  void prefetch_keys(std::int64_t sample, std::int64_t kv_head, std::int64_t first) {
    const std::int64_t n = std::min(kKeys, p_.key_length - first);
    prefetcher_.add(row_of<T>(t_.k, sample, first, kv_head), t_.k.row_stride, n, p_.head_dim);
    prefetcher_.add(row_of<T>(t_.v, sample, first, kv_head), t_.v.row_stride, n, p_.head_dim);
  }

  // Prefetches what run_key_block() packs after queries `i` of the group's head g.
  void prefetch_after(std::int64_t sample, std::int64_t kv_head, std::int64_t g, std::int64_t i,
                      std::int64_t first_key, std::pair<std::int64_t, std::int64_t> queries) {
    prefetcher_.clear();
    std::int64_t next = i + kQueryBlock;
    if (next >= queries.second) {
      next = queries.first;
      ++g;
    }
    if (g < group_) {
      const std::int64_t head = kv_head * group_ + g;
      const std::int64_t count = std::min(kQueryBlock, p_.query_length - next);
      prefetcher_.add(row_of<T>(t_.q, sample, next, head), t_.q.row_stride, count, p_.head_dim);
      prefetcher_.add(dout_row(sample, next, head), p_.heads * p_.head_dim, count, p_.head_dim);
    } else if (first_key + kKeys < p_.key_length) {
      prefetch_keys(sample, kv_head, first_key + kKeys);
    }
  }
  const T* dout_row(std::int64_t sample, std::int64_t query, std::int64_t head) const {
    return reinterpret_cast<const T*>(t_.dout) +
           ((sample * p_.query_length + query) * p_.heads + head) * p_.head_dim;
  }

  // P and dS of the packed queries and keys.
  void score(std::int64_t sample, std::int64_t head, std::int64_t first_query, std::int64_t count,
             std::int64_t first_key, std::int64_t n) {
    const std::int64_t diagonal = first_query + offset_ - first_key;
    bias_ = alibi_of(p_, head);
    if (keep_ != nullptr) draw_dropout(sample, head, first_query, count, first_key, n);
    at_work_ = {head, first_query, first_key};
    if (mask_.has_first_keys()) {
      for (std::int64_t i = 0; i < count; ++i) {
        first_seen_[i] = mask_.first_key(index(sample), index(first_query + i)) - first_key;
      }
      std::fill(first_seen_ + count, first_seen_ + kQueryBlock, 0);
    }
    for (std::int64_t v = 0; v * kLanes < n; v += kVectors) {
      for (std::int64_t r = 0; r < count; r += kRows) {
        const std::int64_t seen = std::min(n, r + kRows + diagonal) - v * kLanes;  // by any row
        if (seen <= 0) continue;
        const bool whole = (v + kVectors) * kLanes <= std::min(n, r + diagonal + 1) &&
                           !hides_any(std::min(r + kRows, count) - 1, v);
        if (keep_ != nullptr) {
          score_tile<kVectors, true, true>(r, v, diagonal, n);
        } else if (whole) {
          score_tile<kVectors, false, false>(r, v, diagonal, n);
        } else if (seen > kLanes) {
          score_tile<kVectors, true, false>(r, v, diagonal, n);
        } else {
          score_tile<1, true, false>(r, v, diagonal, n);
        }
        prefetcher_.step(kPrefetchRows);
      }
    }
  }

  template <int V, bool kMasked, bool kDropout>
  __attribute__((noinline)) void score_tile(std::int64_t r, std::int64_t v, std::int64_t diagonal,
                                            std::int64_t n) {
    alignas(64) float probs[kRows][V * kLanes];
    F acc[kRows][V];
    clear(acc);
    multiply<P, kRows, V, Left::rows>(acc, q_rows_ + r * word_ld_, word_ld_, keys_t_ + v * kLanes,
                                      kKeys, steps_);
    if (bias_ != 0.0f) add_bias<V>(acc, r, v, diagonal);
    const F scale = simd::broadcast(p_.scale * std::numbers::log2e_v<float>);
#pragma GCC unroll 16
    for (std::int64_t i = 0; i < kRows; ++i) {
      const F shift = simd::broadcast(-lse2_[r + i]);
#pragma GCC unroll 4
      for (int u = 0; u < V; ++u) {
        F p = simd::exp2<S, P::kExpDegree>(S::multiply_add(acc[i][u], scale, shift));
        if constexpr (kMasked) {
          const std::int64_t seen = std::min(n, r + i + diagonal + 1) - (v + u) * kLanes;
          p = S::select(S::lanes_below(seen), p, simd::Floats{});
          if (!mask_.empty()) p = hide(p, r + i, v + u);
        }
        S::store(&probs[i][u * kLanes], p);
        acc[i][u] = kDropout ? p * keep(r + i, v + u) : p;
      }
    }
    store_columns(acc, probs_, r, v);
    clear(acc);
    multiply<P, kRows, V, Left::rows>(acc, dout_rows_ + r * word_ld_, word_ld_,
                                      values_t_ + v * kLanes, kKeys, steps_);
#pragma GCC unroll 16
    for (std::int64_t i = 0; i < kRows; ++i) {
      const F delta = simd::broadcast(delta_[r + i]);
#pragma GCC unroll 4
      for (int u = 0; u < V; ++u) {
        if constexpr (kDropout) acc[i][u] = acc[i][u] * keep(r + i, v + u);
        acc[i][u] = (acc[i][u] - delta) * S::load(&probs[i][u * kLanes]);
      }
      if constexpr (P::kPair > 1) {
        P::store_row(ds_rows_ + (r + i) * (kKeys / P::kPair) + v * kLanes / P::kPair, acc[i][0],
                     V > 1 ? acc[i][V - 1] : simd::Floats{});
      }
    }
    store_columns(acc, ds_columns_, r, v);
  }

  // Whether the mask hides keys of vector `v` on from rows up to `last`.
  bool hides_any(std::int64_t last, std::int64_t v) const {
    return mask_.has_pattern() || (mask_.has_first_keys() && first_seen_[last] > v * kLanes);
  }
  // Zero for the keys of a vector that the mask hides from a row.
  F hide(F p, std::int64_t row, std::int64_t vector) const {
    if (mask_.has_first_keys()) {
      p = S::select(S::lanes_from(first_seen_[row] - vector * kLanes), p, simd::Floats{});
    }
    // A vector lies in one block; rows and keys past the last have no probability anyway.
    const std::int64_t query = at_work_.first_query + row;
    const std::int64_t key = at_work_.first_key + vector * kLanes;
    if (!mask_.has_pattern() || query >= p_.query_length || key >= p_.key_length) return p;
    return mask_.keeps(index(at_work_.head), index(query), index(key)) ? p : simd::Floats{};
  }

  template <int V>
  NEOX_INLINE void add_bias(F (&acc)[kRows][V], std::int64_t r, std::int64_t v,
                            std::int64_t diagonal) const {
#pragma GCC unroll 16
    for (std::int64_t i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
      for (int u = 0; u < V; ++u) {
        acc[i][u] = acc[i][u] + alibi_lanes(bias_, r + i + diagonal - (v + u) * kLanes, -1.0f);
      }
    }
  }

  template <int V>
  static NEOX_INLINE void clear(F (&acc)[kRows][V]) {
#pragma GCC unroll 16
    for (auto& row : acc) {
#pragma GCC unroll 4
      for (F& x : row) x = simd::Floats{};
    }
  }
  NEOX_INLINE F keep(std::int64_t row, std::int64_t vector) const {
    return S::load(keep_ + row * kKeys + vector * kLanes);
  }
  // Rows r.. of a score tile as words [queries / pair][keys].
  template <int V>
  static NEOX_INLINE void store_columns(const F (&acc)[kRows][V], Word* to, std::int64_t r,
                                        std::int64_t v) {
#pragma GCC unroll 16
    for (std::int64_t i = 0; i < kRows; i += P::kPair) {
#pragma GCC unroll 4
      for (int u = 0; u < V; ++u) {
        F rows[P::kPair];
#pragma GCC unroll 2
        for (int h = 0; h < P::kPair; ++h) rows[h] = acc[i + h][u];
        P::store_words(to + (r + i) / P::kPair * kKeys + (v + u) * kLanes, rows);
      }
    }
  }

  // dv += P^T dout, dk += dS^T q.
  void add_key_gradients(std::int64_t count, std::int64_t n, std::int64_t diagonal) {
    const auto steps = [&](std::int64_t r, std::int64_t, std::int64_t) {
      // The first row of score tiles that reaches key r; P is zero from there up to the diagonal.
      const std::int64_t first = std::max<std::int64_t>(0, r - diagonal) / kRows * kRows;
      return Steps{first / P::kPair, round_up(count, kRows) / P::kPair};
    };
    multiply_block<P, Left::columns, Into::add>(round_up(n, kRows), dim_ / kLanes, probs_, kKeys,
                                                dout_pairs_, dim_, dv_, dim_, nullptr, steps);
    multiply_block<P, Left::columns, Into::add>(round_up(n, kRows), dim_ / kLanes, ds_columns_,
                                                kKeys, q_pairs_, dim_, dk_, dim_, nullptr, steps);
  }

  // dq += dS k.
  void add_query_gradient(std::int64_t count, std::int64_t n, std::int64_t diagonal, float* dq) {
    multiply_block<P, Left::rows, Into::add>(
        round_up(count, kRows), dim_ / kLanes, ds_rows_, kKeys / P::kPair, key_pairs_, dim_, dq,
        dim_, nullptr, [&](std::int64_t r, std::int64_t, std::int64_t) {
          return Steps{0, div_up(std::min(n, r + kRows + diagonal), P::kPair)};
        });
  }

  void draw_dropout(std::int64_t sample, std::int64_t head, std::int64_t first_query,
                    std::int64_t count, std::int64_t first_key, std::int64_t n) {
    std::fill_n(keep_, kQueryBlock * kKeys, 0.0f);
    for (std::int64_t i = 0; i < count; ++i) {
      const std::uint64_t index =
          dropout_index(p_, sample, head, first_query + i) + static_cast<std::uint64_t>(first_key);
      dropout_factors(p_.dropout, index, {keep_ + i * kKeys, static_cast<std::size_t>(n)});
    }
  }

  void write(const Heads& to, std::int64_t sample, std::int64_t first, std::int64_t head,
             std::int64_t count, const float* from, float scale) const {
    const F factor = simd::broadcast(scale);
    for (std::int64_t i = 0; i < count; ++i) {
      T* row = row_of<T>(to, sample, first + i, head);
      for (std::int64_t d = 0; d < p_.head_dim; d += kLanes) {
        S::store_elements(row + d, S::load(from + i * dim_ + d) * factor, p_.head_dim - d);
      }
    }
  }

  const AttentionProblem& p_;
  MaskView mask_;
  const BackwardTensors& t_;
  struct {
    std::int64_t head = 0, first_query = 0, first_key = 0;
  } at_work_;
  std::int64_t first_seen_[kQueryBlock] = {};  // of each row, from the first packed key on
  std::int64_t group_;                         // query heads of one K/V head
  std::int64_t offset_;                        // query i sees keys up to i + offset
  std::int64_t steps_;                         // words along head_dim
  std::int64_t word_ld_;                       // the same, padded
  std::int64_t dim_;                           // head_dim, padded
  RowPrefetcher prefetcher_;
  std::size_t bytes_ = 0;
  Word* keys_t_ = nullptr;      // [word_ld][kKeys]
  Word* values_t_ = nullptr;    // [word_ld][kKeys]
  Word* key_pairs_ = nullptr;   // [kKeys / pair][dim]
  Word* q_rows_ = nullptr;      // [64][word_ld]
  Word* dout_rows_ = nullptr;   // [64][word_ld]
  Word* q_pairs_ = nullptr;     // [64 / pair][dim]
  Word* dout_pairs_ = nullptr;  // [64 / pair][dim]
  Word* probs_ = nullptr;       // [64 / pair][kKeys]
  Word* ds_columns_ = nullptr;  // [64 / pair][kKeys]
  Word* ds_rows_ = nullptr;     // [64][kKeys / pair]
  float* dk_ = nullptr;         // [kKeys][dim]
  float* dv_ = nullptr;         // [kKeys][dim]
  float* dq_block_ = nullptr;   // [64][dim]
  float* lse2_ = nullptr;       // [64] lse log2 e
  float* delta_ = nullptr;      // [64]
  float* keep_ = nullptr;       // [64][kKeys], with dropout only
  float bias_ = 0.0f;           // alibi_of() the head at work
};

template <class P, class T>
void run_backward(const AttentionProblem& p, const BackwardTensors& t, float* dq_memory) {
  const int threads = attention_threads();
  const bool fuse = fused(p, threads);
  const std::size_t each = BackwardTask<P, T>(p, t, nullptr).bytes();
  std::byte* memory = attention_scratch(each * static_cast<std::size_t>(threads));
  const std::int64_t rows = p.batch * p.heads * p.query_length;
  const std::int64_t key_blocks = div_up(p.key_length, P::kKeyBlock);
  const std::int64_t query_blocks = div_up(p.query_length, kQueryBlock);
  const std::int64_t kv_heads = p.batch * p.kv_heads;
  const std::int64_t heads = p.batch * p.heads;
#pragma omp parallel num_threads(threads)
  {
    const int thread = omp_get_thread_num();
    BackwardTask<P, T> task(p, t, memory + each * static_cast<std::size_t>(thread));
#pragma omp for schedule(static)
    for (std::int64_t row = 0; row < rows; ++row) task.compute_delta(row);
    if (fuse) {
      float* dq = dq_memory + thread * query_gradient_floats(p);
#pragma omp for schedule(dynamic, 1)
      for (std::int64_t i = 0; i < kv_heads; ++i) {
        task.run_fused(i / p.kv_heads, i % p.kv_heads, dq);
      }
    } else {
      // The longest tasks first: early keys are seen by all queries, late queries see all keys.
#pragma omp for schedule(dynamic, 1) nowait
      for (std::int64_t i = 0; i < kv_heads * key_blocks; ++i) {
        const std::int64_t head = i % kv_heads;
        task.template run_key_block<false>(head / p.kv_heads, head % p.kv_heads,
                                           i / kv_heads * P::kKeyBlock, nullptr);
      }
#pragma omp for schedule(dynamic, 1)
      for (std::int64_t i = 0; i < heads * query_blocks; ++i) {
        const std::int64_t head = i % heads;
        task.run_query_block(head / p.heads, head % p.heads,
                             (query_blocks - 1 - i / heads) * kQueryBlock);
      }
    }
  }
}

std::size_t delta_bytes(const AttentionProblem& p) {
  return static_cast<std::size_t>(round_up(p.batch * p.heads * p.query_length, kLanes)) *
         sizeof(float);
}

}  // namespace

std::size_t attention_backward_workspace(const AttentionProblem& problem) {
  const int threads = attention_threads();
  std::size_t bytes = delta_bytes(problem);
  if (fused(problem, threads)) {
    bytes += static_cast<std::size_t>(threads * query_gradient_floats(problem)) * sizeof(float);
  }
  return bytes;
}

void backward_blocks(const AttentionProblem& problem, ConstHeads q, ConstHeads k, ConstHeads v,
                     ConstTensor out, ConstTensor lse, ConstTensor dout, Heads dq, Heads dk,
                     Heads dv, Tensor workspace, AttentionKernels kernels) {
  auto* delta = reinterpret_cast<float*>(workspace.data);
  auto* dq_memory = reinterpret_cast<float*>(workspace.data + delta_bytes(problem));
  const BackwardTensors tensors{q, k, v, out.data, dout.data, lse.ptr<float>(), delta, dq, dk, dv};
  dispatch(kernels, q.dtype,
           [&]<class P, class T>() { run_backward<P, T>(problem, tensors, dq_memory); });
}

}  // namespace neox::cpu
