// Attention of one query per head over a KV cache: bound by memory, so the cache is streamed once,
// in chunks of a fixed length that run in parallel and are merged in order.
#include <cmath>
#include <numbers>

#include <omp.h>

#include "kernels/cpu/attention_common.h"

namespace neox::cpu {
namespace {

constexpr std::int64_t kChunk = 1024;  // keys of one task
constexpr std::int64_t kKeyStep = 64;  // keys scored before their values are added
constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

/// 16 dot products of `q` (padded words of one head) with rows k[0..count).
template <class P, class T>
typename P::F dots(const typename P::Word* q, const T* k, std::int64_t stride, std::int64_t count,
                   std::int64_t dim) {
  typename P::F sums[kLanes];
  for (std::int64_t i = 0; i < kLanes; ++i) {
    sums[i] = simd::Floats{};
    if (i >= count) continue;
    const T* row = k + i * stride;
    for (std::int64_t d = 0; d < dim; d += kLanes * P::kPair) {
      sums[i] = P::multiply_add(sums[i], P::load(q + d / P::kPair), P::load_row(row + d, dim - d));
    }
  }
  return simd::sum_each(sums);
}

/// out[0..16 V) = out * factor + sum_j probs[j] v[j].
template <class S, int V, class T>
void add_values(float* out, float factor, const float* probs, const T* v, std::int64_t stride,
                std::int64_t count, std::int64_t dim) {
  simd::Floats acc[V];
  for (int i = 0; i < V; ++i) acc[i] = S::load(out + i * kLanes) * simd::broadcast(factor);
  for (std::int64_t j = 0; j < count; ++j) {
    const auto p = simd::broadcast(probs[j]);
#pragma GCC unroll 4
    for (int i = 0; i < V; ++i) {
      acc[i] = S::multiply_add(p, S::load_elements(v + j * stride + i * kLanes, dim - i * kLanes),
                               acc[i]);
    }
  }
  for (int i = 0; i < V; ++i) S::store(out + i * kLanes, acc[i]);
}

/// The softmax so far of one query: values relative to the maximum, the maximum (of scores times
/// scale times log2 e) and the sum.
struct DecodeState {
  float* out;
  float max = kMinusInfinity;
  float sum = 0.0f;
};

/// `bias`: alibi_of() the head; the first key is `distance` positions before the query.
/// Keys in front of `first` are not seen, nor those [j, j + 16) with hidden(j).
template <class P, class T, class Hidden>
void add_keys(DecodeState& state, const typename P::Word* q, const T* k, std::int64_t k_stride,
              const T* v, std::int64_t v_stride, std::int64_t count, std::int64_t dim,
              float log2_scale, float bias, std::int64_t distance, std::int64_t first,
              const Hidden& hidden) {
  using S = typename P::Simd;
  alignas(64) float scores[kKeyStep];
  float most = state.max;
  bool any = false;
  for (std::int64_t j = 0; j < count; j += kLanes) {
    auto d = dots<P>(q, k + j * k_stride, k_stride, count - j, dim);
    if (bias != 0.0f) d = d + alibi_lanes(bias, distance - j, -1.0f);
    const std::int64_t end = hidden(j) ? 0 : count - j;
    any = any || end > std::max<std::int64_t>(0, first - j);
    const auto none = simd::broadcast(kMinusInfinity);
    d = S::select(S::lanes_below(end), d * simd::broadcast(log2_scale), none);
    S::store(scores + j, S::select(S::lanes_from(first - j), d, none));
  }
  for (std::int64_t j = 0; j < count; ++j) most = std::max(most, scores[j]);
  if (!any) return;
  auto sum = simd::Floats{};
  for (std::int64_t j = 0; j < count; j += kLanes) {
    const auto p = simd::exp2<S, 6>(S::load(scores + j) - simd::broadcast(most));
    sum = sum + p;
    S::store(scores + j, p);
  }
  const float factor = std::exp2(state.max - most);
  state.max = most;
  state.sum = state.sum * factor + S::reduce_add(sum);
  constexpr std::int64_t kWide = 4 * kLanes;
  std::int64_t d = 0;
  for (; d + 3 * kLanes < dim; d += kWide) {
    add_values<S, 4>(state.out + d, factor, scores, v + d, v_stride, count, dim - d);
  }
  for (; d < dim; d += kLanes) {
    add_values<S, 1>(state.out + d, factor, scores, v + d, v_stride, count, dim - d);
  }
}

template <class P, class T>
class Decode {
  using S = typename P::Simd;
  using Word = typename P::Word;

 public:
  explicit Decode(const AttentionProblem& p)
      : p_(p),
        mask_(mask_of(p)),
        chunks_(div_up(p.key_length, kChunk)),
        dim_(round_up(p.head_dim, kLanes)),
        query_ld_(round_up(div_up(p.head_dim, P::kPair), kLanes)) {
    const std::int64_t states = p.batch * p.heads * chunks_;
    Carver measure(nullptr);
    carve(measure, states);
    Carver carver(attention_scratch(measure.used()));
    carve(carver, states);
  }

  void run(ConstHeads q, ConstHeads k, ConstHeads v, Tensor out, float* lse) {
    const std::int64_t tasks = p_.batch * p_.kv_heads * chunks_;
#pragma omp parallel num_threads(attention_threads())
    {
#pragma omp for schedule(static)
      for (std::int64_t row = 0; row < p_.batch * p_.heads; ++row) {
        P::pack_rows(row_of<T>(q, row / p_.heads, 0, row % p_.heads), q.row_stride, 1, 1,
                     p_.head_dim, queries_ + row * query_ld_, query_ld_);
      }
#pragma omp for schedule(static)
      for (std::int64_t task = 0; task < tasks; ++task) {
        const std::int64_t head = task / chunks_ % p_.kv_heads;
        run_chunk(k, v, task / chunks_ / p_.kv_heads, head, task % chunks_);
      }
#pragma omp for schedule(static)
      for (std::int64_t row = 0; row < p_.batch * p_.heads; ++row) merge(row, out, lse);
    }
  }

 private:
  void carve(Carver& carver, std::int64_t states) {
    queries_ = carver.take<Word>(p_.batch * p_.heads * query_ld_);
    out_ = carver.take<float>(states * dim_);
    max_ = carver.take<float>(states);
    sum_ = carver.take<float>(states);
  }

  void run_chunk(const ConstHeads& k, const ConstHeads& v, std::int64_t sample,
                 std::int64_t kv_head, std::int64_t chunk) {
    const std::int64_t group = p_.heads / p_.kv_heads;
    const std::int64_t end = std::min(p_.key_length, (chunk + 1) * kChunk);
    const float log2_scale = p_.scale * std::numbers::log2e_v<float>;
    const std::int64_t first_row = sample * p_.heads + kv_head * group;
    for (std::int64_t g = 0; g < group; ++g) {
      const std::int64_t at = (first_row + g) * chunks_ + chunk;
      std::fill_n(out_ + at * dim_, dim_, 0.0f);
      max_[at] = kMinusInfinity;
      sum_[at] = 0.0f;
    }
    // All heads of the group take a step's keys while these are in cache.
    const std::int64_t first = mask_.first_key(index(sample), 0);
    for (std::int64_t j = std::max(first / kKeyStep * kKeyStep, chunk * kChunk); j < end;
         j += kKeyStep) {
      for (std::int64_t g = 0; g < group; ++g) {
        const auto hidden = [&](std::int64_t at) {
          return !mask_.keeps(index(kv_head * group + g), 0, index(j + at));
        };
        const std::int64_t at = (first_row + g) * chunks_ + chunk;
        DecodeState state{out_ + at * dim_, max_[at], sum_[at]};
        add_keys<P, T>(state, queries_ + (first_row + g) * query_ld_,
                       row_of<T>(k, sample, j, kv_head), k.row_stride,
                       row_of<T>(v, sample, j, kv_head), v.row_stride, std::min(kKeyStep, end - j),
                       p_.head_dim, log2_scale, alibi_of(p_, kv_head * group + g),
                       p_.key_length - 1 - j, first - j, hidden);
        max_[at] = state.max;
        sum_[at] = state.sum;
      }
    }
  }

  // Brings the chunks of one query to one maximum and adds them.
  void merge(std::int64_t row, const Tensor& out, float* lse) {
    const float* max = max_ + row * chunks_;
    const float* sum = sum_ + row * chunks_;
    float* merged = out_ + row * chunks_ * dim_;
    const float most = *std::max_element(max, max + chunks_);
    float total = 0.0f;
    for (std::int64_t c = 0; c < chunks_; ++c) total += sum[c] * std::exp2(max[c] - most);
    for (std::int64_t d = 0; d < p_.head_dim; d += kLanes) {
      auto value = simd::Floats{};
      for (std::int64_t c = 0; c < chunks_; ++c) {
        const auto weight = simd::broadcast(std::exp2(max[c] - most) / total);
        value = S::multiply_add(S::load(merged + c * dim_ + d), weight, value);
      }
      S::store_elements(reinterpret_cast<T*>(out.data) + row * p_.head_dim + d, value,
                        p_.head_dim - d);
    }
    if (lse != nullptr) lse[row] = most * std::numbers::ln2_v<float> + std::log(total);
  }

  const AttentionProblem& p_;
  MaskView mask_;
  std::int64_t chunks_;
  std::int64_t dim_;         // head_dim, padded
  std::int64_t query_ld_;    // words of a packed query
  Word* queries_ = nullptr;  // [batch * heads][query_ld]
  float* out_ = nullptr;     // [batch * heads][chunks][dim]
  float* max_ = nullptr;     // [batch * heads][chunks]
  float* sum_ = nullptr;
};

}  // namespace

void forward_decode(const AttentionProblem& problem, ConstHeads q, ConstHeads k, ConstHeads v,
                    Tensor out, float* lse, AttentionKernels kernels) {
  dispatch(kernels, q.dtype,
           [&]<class P, class T>() { Decode<P, T>(problem).run(q, k, v, out, lse); });
}

}  // namespace neox::cpu
