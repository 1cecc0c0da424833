// Blocked causal attention, forward.
//
// Scores are computed transposed, S^T [keys, queries]: one vector lane is one query, so the running
// maximum and sum need no reduction across lanes.
#include <cmath>
#include <numbers>

#include <omp.h>

#include "kernels/cpu/attention_common.h"

namespace neox::cpu {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
constexpr float kLeastMaximum = -1e30f;  // below every score, and its multiples by a scale finite

// Up to 64 queries of one head.
struct QueryTile {
  std::int64_t head = 0;
  std::int64_t first = 0;
  std::int64_t count = 0;
};

// How the queries are cut into tasks: each task holds `heads` query heads of one K/V head and
// `blocks` consecutive query blocks, and packs each key block once for all of them.
struct ForwardPlan {
  std::int64_t group;
  std::int64_t heads;
  std::int64_t blocks;
  std::int64_t head_chunks;
  std::int64_t runs;

  ForwardPlan(const AttentionProblem& p, int threads) : group(p.heads / p.kv_heads) {
    const std::int64_t all_blocks = div_up(p.query_length, kQueryBlock);
    heads = std::min<std::int64_t>(group, 4);
    blocks = std::clamp<std::int64_t>(4 / heads, 1, all_blocks);
    const auto update = [&] {
      head_chunks = div_up(group, heads);
      runs = div_up(all_blocks, blocks);
    };
    update();
    // Tasks of a causal problem differ in length: several for each thread even that out.
    while (p.batch * p.kv_heads * head_chunks * runs < 4 * threads && heads * blocks > 1) {
      (blocks > 1 ? blocks : heads) /= 2;
      update();
    }
  }
  std::int64_t tiles() const { return heads * blocks; }
};

template <class P, class T>
class ForwardTask {
  using S = typename P::Simd;
  using F = typename P::F;
  using Word = typename P::Word;
  static constexpr std::int64_t kRows = kTileRows<S>;

 public:
  ForwardTask(const AttentionProblem& p, std::int64_t tiles, std::byte* memory)
      : p_(p),
        mask_(mask_of(p)),
        steps_(div_up(p.head_dim, P::kPair)),
        key_ld_(round_up(steps_, kLanes)),
        value_ld_(round_up(p.head_dim, kLanes)),
        log2_scale_(p.scale * std::numbers::log2e_v<float>) {
    Carver carve(memory);
    queries_ = carve.take<Word>(tiles * key_ld_ * kQueryBlock);
    out_ = carve.take<float>(tiles * kQueryBlock * value_ld_);
    max_ = carve.take<float>(tiles * kQueryBlock);
    sum_ = carve.take<float>(tiles * kQueryBlock);
    keys_ = carve.take<Word>(P::kKeyBlock * key_ld_);
    values_ = carve.take<Word>(P::kKeyBlock / P::kPair * value_ld_);
    scores_ = carve.take<float>(P::kKeyBlock * kQueryBlock);
    probs_ = carve.take<Word>(P::kKeyBlock / P::kPair * kQueryBlock);
    if (p.dropout.p > 0.0f) keep_ = carve.take<float>(P::kKeyBlock * kQueryBlock);
    bytes_ = carve.used();
  }
  std::size_t bytes() const { return bytes_; }

  void run(ConstHeads q, ConstHeads k, ConstHeads v, Tensor out, float* lse, std::int64_t sample,
           std::int64_t kv_head, std::span<const QueryTile> tiles) {
    std::int64_t keys = 0;  // behind the last that any of the queries sees
    std::int64_t begin = p_.key_length;
    for (std::size_t t = 0; t < tiles.size(); ++t) {
      const QueryTile& tile = tiles[t];
      const auto at = static_cast<std::int64_t>(t);
      P::pack_transposed(row_of<T>(q, sample, tile.first, tile.head), q.row_stride, tile.count,
                         p_.head_dim, queries_ + at * key_ld_ * kQueryBlock, kQueryBlock);
      keys = std::max(keys, tile.first + tile.count + p_.key_length - p_.query_length);
      begin = std::min<std::int64_t>(begin, mask_.first_key(index(sample), index(tile.first)));
    }
    begin = begin / P::kKeyBlock * P::kKeyBlock;
    const auto states = static_cast<std::int64_t>(tiles.size()) * kQueryBlock;
    std::fill_n(out_, states * value_ld_, 0.0f);
    std::fill_n(max_, states, kMinusInfinity);
    std::fill_n(sum_, states, 0.0f);
    for (std::int64_t j = begin; j < keys; j += P::kKeyBlock) {
      const std::int64_t n = std::min(P::kKeyBlock, keys - j);
      const bool wanted = std::any_of(tiles.begin(), tiles.end(), [&](const QueryTile& tile) {
        return sees_any(sample, tile, j, n);
      });
      if (!wanted) continue;
      P::pack_rows(row_of<T>(k, sample, j, kv_head), k.row_stride, n, round_up(n, kRows),
                   p_.head_dim, keys_, key_ld_);
      P::pack_pairs(row_of<T>(v, sample, j, kv_head), v.row_stride, n, round_up(n, P::kPair),
                    p_.head_dim, values_, value_ld_);
      prefetch_keys(k, v, sample, kv_head, j + P::kKeyBlock, keys,
                    static_cast<std::int64_t>(tiles.size()));
      for (std::size_t t = 0; t < tiles.size(); ++t) {
        const std::int64_t diagonal = tiles[t].first + p_.key_length - p_.query_length - j;
        if (!sees_any(sample, tiles[t], j, n)) continue;
        if (p_.dropout.p > 0.0f) draw_dropout(sample, tiles[t], j, n);
        bias_ = alibi_of(p_, tiles[t].head);
        at_work_ = {sample, j, tiles[t]};
        add_keys(static_cast<std::int64_t>(t), tiles[t].count, n, diagonal);
      }
    }
    for (std::size_t t = 0; t < tiles.size(); ++t) {
      write(static_cast<std::int64_t>(t), tiles[t], sample, out, lse);
    }
  }

 private:
  // Whether any query of the tile may see any of keys [first, first + n).
  bool sees_any(std::int64_t sample, const QueryTile& tile, std::int64_t first,
                std::int64_t n) const {
    const std::int64_t last_query = tile.first + tile.count - 1;
    const std::int64_t last_key =
        std::min(first + n - 1, last_query + p_.key_length - p_.query_length);
    return first <= last_key && mask_.first_key(index(sample), index(tile.first)) <= last_key &&
           mask_.keeps_any(index(tile.head), index(tile.first), index(last_query), index(first),
                           index(last_key));
  }

  // Spreads the fetches of the keys after the current block over its softmaxes.
  void prefetch_keys(const ConstHeads& k, const ConstHeads& v, std::int64_t sample,
                     std::int64_t kv_head, std::int64_t first, std::int64_t keys,
                     std::int64_t tiles) {
    prefetcher_.clear();
    const std::int64_t n = std::min(P::kKeyBlock, keys - first);
    if (n <= 0) return;
    prefetcher_.add(row_of<T>(k, sample, first, kv_head), k.row_stride, n, p_.head_dim);
    prefetcher_.add(row_of<T>(v, sample, first, kv_head), v.row_stride, n, p_.head_dim);
    prefetch_rows_ = div_up(2 * n * kLanes, tiles * kQueryBlock);
  }

  // Adds `n` packed keys to the state of tile t: its query i sees key j when j <= i + diagonal.
  void add_keys(std::int64_t t, std::int64_t count, std::int64_t n, std::int64_t diagonal) {
    multiply_scores(queries_ + t * key_ld_ * kQueryBlock, count, n, diagonal);
    alignas(64) float rescale[kQueryBlock];
    for (std::int64_t v = 0; v < count; v += kLanes) {
      prefetcher_.step(prefetch_rows_);
      const std::int64_t end = std::min(n, v + kLanes + diagonal);
      if (end > 0) {
        softmax(t * kQueryBlock + v, v, end, diagonal + v, rescale + v);
      } else {
        S::store(rescale + v, simd::broadcast(1.0f));
      }
    }
    multiply_block<P, Left::columns, Into::rescale>(
        round_up(count, kRows), value_ld_ / kLanes, probs_, kQueryBlock, values_, value_ld_,
        out_ + t * kQueryBlock * value_ld_, value_ld_, rescale,
        [&](std::int64_t r, std::int64_t, std::int64_t) {
          return Steps{0, div_up(std::min(n, r + kRows + diagonal), P::kPair)};
        });
  }

  // scores [keys][queries], left out where no query of a vector sees a key.
  void multiply_scores(const Word* queries, std::int64_t count, std::int64_t n,
                       std::int64_t diagonal) {
    constexpr int kMost = P::kScoreVectors;
    const std::int64_t vectors = div_up(count, kLanes);
    for (std::int64_t v = 0; v < vectors; v += kMost) {
      for (std::int64_t r = 0; r < n; r += kRows) {
        // The first vector that sees key r, which lies in front of all later ones that do.
        const std::int64_t from = std::max(v, floor_div(r - diagonal, kLanes));
        const std::int64_t width = std::min(v + kMost, vectors) - from;
        if (width <= 0) continue;
        const auto run = [&]<int kWidth>() {
          multiply_tile<P, kWidth, Left::rows, Into::overwrite>(
              keys_ + r * key_ld_, key_ld_, queries + from * kLanes, kQueryBlock, steps_,
              scores_ + r * kQueryBlock + from * kLanes, kQueryBlock, nullptr);
        };
        if (kMost > 1 && width > 1) {
          run.template operator()<kMost>();
        } else {
          run.template operator()<1>();
        }
      }
    }
  }

  // Turns the scores of 16 queries (columns v..v+15) with keys [0, end) into probabilities and
  // updates the queries' maximum and sum. Lane i sees key j when j <= i + diagonal.
  void softmax(std::int64_t state, std::int64_t v, std::int64_t end, std::int64_t diagonal,
               float* rescale) {
    float* column = scores_ + v;
    const std::int64_t padded = round_up(end, P::kPair);
    if (bias_ != 0.0f) {
      for (std::int64_t j = 0; j < end; ++j) {
        float* at = column + j * kQueryBlock;
        S::store(at, S::load(at) + alibi_lanes(bias_, diagonal - j, 1.0f));
      }
    }
    for (std::int64_t j = std::max<std::int64_t>(0, diagonal + 1); j < end; ++j) {
      float* at = column + j * kQueryBlock;
      S::store(
          at, S::select(S::lanes_from(j - diagonal), S::load(at), simd::broadcast(kMinusInfinity)));
    }
    if (padded > end) S::store(column + end * kQueryBlock, simd::broadcast(kMinusInfinity));
    if (!mask_.empty()) hide(column, v, end);
    const F old = S::load(max_ + state);
    F most[4] = {old, old, old, old};
    std::int64_t j = 0;
    for (; j + 4 <= end; j += 4) {
      for (std::int64_t i = 0; i < 4; ++i) {
        most[i] = S::max(most[i], S::load(column + (j + i) * kQueryBlock));
      }
    }
    for (; j < end; ++j) most[0] = S::max(most[0], S::load(column + j * kQueryBlock));
    const F now = S::max(S::max(most[0], most[1]), S::max(most[2], most[3]));
    S::store(max_ + state, now);
    const F scale = simd::broadcast(log2_scale_);
    // A query that has seen no key so far subtracts no infinity; a NaN stays one.
    const F base = mask_.empty() ? now : S::max(simd::broadcast(kLeastMaximum), now);
    const F shift = simd::Floats{} - base * scale;
    const F factor = simd::exp2<S, P::kExpDegree>(S::multiply_add(old, scale, shift));
    S::store(rescale, factor);
    const F sum = keep_ == nullptr ? exponentials<false>(v, padded, scale, shift)
                                   : exponentials<true>(v, padded, scale, shift);
    S::store(sum_ + state, S::multiply_add(S::load(sum_ + state), factor, sum));
  }

  // Makes -inf of keys [0, end) that 16 queries of the tile at work do not see for the mask.
  void hide(float* column, std::int64_t v, std::int64_t end) const {
    const std::int64_t query = at_work_.tile.first + v;
    if (mask_.has_first_keys()) hide_in_front(column, query, end);
    if (!mask_.has_pattern()) return;
    // 16 queries lie in one block, or in two.
    const std::int64_t next = mask_.block - (query + mask_.offset) % mask_.block;
    const std::int64_t last = std::min(query + kLanes, p_.query_length) - 1;
    for (std::int64_t j = 0; j < end;) {
      const std::int64_t key = at_work_.first_key + j;
      const std::int64_t past = std::min(end, j + mask_.block - key % mask_.block);
      const auto head = index(at_work_.tile.head);
      const bool left = mask_.keeps(head, index(query), index(key));
      const bool right = mask_.keeps(head, index(last), index(key));
      for (; j < past; ++j) {
        if (!left) hide_lanes(column + j * kQueryBlock, S::lanes_below(next));
        if (!right) hide_lanes(column + j * kQueryBlock, S::lanes_from(next));
      }
    }
  }
  void hide_in_front(float* column, std::int64_t query, std::int64_t end) const {
    const std::int64_t count = std::min(kLanes, p_.query_length - query);
    std::int64_t seeing = 0;  // of the 16 queries, the first ones
    for (std::int64_t j = 0; j < end; ++j) {
      const std::int64_t key = at_work_.first_key + j;
      while (seeing < count &&
             mask_.first_key(index(at_work_.sample), index(query + seeing)) <= key) {
        ++seeing;
      }
      if (seeing == count) return;
      hide_lanes(column + j * kQueryBlock, S::lanes_from(seeing));
    }
  }
  static void hide_lanes(float* at, typename S::Mask lanes) {
    S::store(at, S::select(lanes, simd::broadcast(kMinusInfinity), S::load(at)));
  }

  // probs = exp2(scores * scale + shift), times the dropout factors; returns the sum before those.
  template <bool kDropout>
  F exponentials(std::int64_t v, std::int64_t padded, F scale, F shift) {
    F sums[P::kPair];
    for (auto& s : sums) s = simd::Floats{};
    for (std::int64_t j = 0; j < padded; j += P::kPair) {
      F prob[P::kPair];
#pragma GCC unroll 2
      for (int i = 0; i < P::kPair; ++i) {
        const F score = S::load(scores_ + (j + i) * kQueryBlock + v);
        prob[i] = simd::exp2<S, P::kExpDegree>(S::multiply_add(score, scale, shift));
        sums[i] = sums[i] + prob[i];
        if constexpr (kDropout) prob[i] = prob[i] * S::load(keep_ + (j + i) * kQueryBlock + v);
      }
      P::store_words(probs_ + j / P::kPair * kQueryBlock + v, prob);
    }
    F sum = sums[0];
    for (int i = 1; i < P::kPair; ++i) sum = sum + sums[i];
    return sum;
  }

  // keep_ [keys][queries] from rows of draws.
  void draw_dropout(std::int64_t sample, const QueryTile& tile, std::int64_t first_key,
                    std::int64_t n) {
    float row[P::kKeyBlock];
    std::fill_n(keep_, P::kKeyBlock * kQueryBlock, 0.0f);
    for (std::int64_t i = 0; i < tile.count; ++i) {
      const std::uint64_t index = dropout_index(p_, sample, tile.head, tile.first + i) +
                                  static_cast<std::uint64_t>(first_key);
      dropout_factors(p_.dropout, index, {row, static_cast<std::size_t>(n)});
      for (std::int64_t j = 0; j < n; ++j) keep_[j * kQueryBlock + i] = row[j];
    }
  }

  void write_lse(std::int64_t t, const QueryTile& tile, std::int64_t sample, float* lse) {
    lse += (sample * p_.heads + tile.head) * p_.query_length + tile.first;
    for (std::int64_t i = 0; i < tile.count; i += kLanes) {
      const std::int64_t state = t * kQueryBlock + i;
      const F log2_sum = S::multiply_add(S::load(max_ + state), simd::broadcast(log2_scale_),
                                         simd::log2(S::load(sum_ + state)));
      S::store_elements(lse + i, log2_sum * simd::broadcast(std::numbers::ln2_v<float>),
                        tile.count - i);
    }
  }

  void write(std::int64_t t, const QueryTile& tile, std::int64_t sample, Tensor out, float* lse) {
    if (lse != nullptr) write_lse(t, tile, sample, lse);
    const std::int64_t width = p_.heads * p_.head_dim;
    for (std::int64_t i = 0; i < tile.count; ++i) {
      const std::int64_t state = t * kQueryBlock + i;
      T* to = reinterpret_cast<T*>(out.data) + (sample * p_.query_length + tile.first + i) * width +
              tile.head * p_.head_dim;
      const F norm = simd::broadcast(1.0f / sum_[state]);
      for (std::int64_t d = 0; d < p_.head_dim; d += kLanes) {
        S::store_elements(to + d, S::load(out_ + state * value_ld_ + d) * norm, p_.head_dim - d);
      }
    }
  }

  const AttentionProblem& p_;
  MaskView mask_;
  struct {
    std::int64_t sample = 0, first_key = 0;
    QueryTile tile;
  } at_work_;
  std::int64_t steps_;     // words along head_dim
  std::int64_t key_ld_;    // the same, padded
  std::int64_t value_ld_;  // head_dim, padded
  float log2_scale_;
  RowPrefetcher prefetcher_;
  std::int64_t prefetch_rows_ = 0;  // for one softmax
  std::size_t bytes_ = 0;
  Word* queries_ = nullptr;  // [tiles][key_ld][64]: transposed
  float* out_ = nullptr;     // [tiles][64][value_ld], relative to the maximum
  float* max_ = nullptr;     // [tiles][64], of scores before scaling
  float* sum_ = nullptr;     // [tiles][64]
  Word* keys_ = nullptr;     // [kKeyBlock][key_ld]
  Word* values_ = nullptr;   // [kKeyBlock / pair][value_ld]
  float* scores_ = nullptr;  // [kKeyBlock][64]
  Word* probs_ = nullptr;    // [kKeyBlock / pair][64]
  float* keep_ = nullptr;    // [kKeyBlock][64], with dropout only
  float bias_ = 0.0f;        // alibi_of() the head at work
};

template <class P, class T>
void run_forward(const AttentionProblem& p, ConstHeads q, ConstHeads k, ConstHeads v, Tensor out,
                 float* lse) {
  const int threads = attention_threads();
  const ForwardPlan plan(p, threads);
  const std::size_t each = ForwardTask<P, T>(p, plan.tiles(), nullptr).bytes();
  std::byte* memory = attention_scratch(each * static_cast<std::size_t>(threads));
  const std::int64_t tasks = p.batch * p.kv_heads * plan.head_chunks * plan.runs;
#pragma omp parallel num_threads(threads)
  {
    ForwardTask<P, T> task(p, plan.tiles(),
                           memory + each * static_cast<std::size_t>(omp_get_thread_num()));
#pragma omp for schedule(dynamic, 1)
    for (std::int64_t index = 0; index < tasks; ++index) {
      std::int64_t rest = index;
      const std::int64_t chunk = rest % plan.head_chunks;
      rest /= plan.head_chunks;
      const std::int64_t kv_head = rest % p.kv_heads;
      rest /= p.kv_heads;
      const std::int64_t sample = rest % p.batch;
      const std::int64_t run = plan.runs - 1 - rest / p.batch;  // the longest tasks come first
      QueryTile tiles[4];
      std::size_t count = 0;
      for (std::int64_t g = chunk * plan.heads; g < std::min(plan.group, (chunk + 1) * plan.heads);
           ++g) {
        for (std::int64_t b = run * plan.blocks; b < (run + 1) * plan.blocks; ++b) {
          const std::int64_t first = b * kQueryBlock;
          if (first >= p.query_length) break;
          tiles[count++] = {kv_head * plan.group + g, first,
                            std::min(kQueryBlock, p.query_length - first)};
        }
      }
      task.run(q, k, v, out, lse, sample, kv_head, {tiles, count});
    }
  }
}

}  // namespace

void forward_blocks(const AttentionProblem& problem, ConstHeads q, ConstHeads k, ConstHeads v,
                    Tensor out, float* lse, AttentionKernels kernels) {
  dispatch(kernels, q.dtype,
           [&]<class P, class T>() { run_forward<P, T>(problem, q, k, v, out, lse); });
}

}  // namespace neox::cpu
