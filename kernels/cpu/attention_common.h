#pragma once
// What forward, decoding and backward share: memory, head addresses, dropout factors.

#include <cstddef>
#include <span>

#include "kernels/cpu/attention.h"
#include "kernels/cpu/attention_tiles.h"

namespace neox::cpu {

inline constexpr std::int64_t kQueryBlock = 64;

/// Hands out 64-byte aligned pieces of one block of memory; with a null base it only adds up sizes.
class Carver {
 public:
  explicit Carver(std::byte* base) : base_(base) {}
  template <class T>
  T* take(std::int64_t count) {
    T* at = base_ == nullptr ? nullptr : reinterpret_cast<T*>(base_ + used_);
    used_ += (static_cast<std::size_t>(count) * sizeof(T) + 63) / 64 * 64;
    return at;
  }
  std::size_t used() const { return used_; }

 private:
  std::byte* base_;
  std::size_t used_ = 0;
};

/// Memory of the calling thread that only grows; valid until its next call from this thread.
std::byte* attention_scratch(std::size_t bytes);

/// Threads that the next parallel region of the calling thread gets.
int attention_threads();

/// Row `position` of head `head` of sample `sample`.
template <class T>
const T* row_of(const ConstHeads& h, std::int64_t sample, std::int64_t position,
                std::int64_t head) {
  return reinterpret_cast<const T*>(h.data) + sample * h.batch_stride + position * h.row_stride +
         head * h.head_stride;
}
template <class T>
T* row_of(const Heads& h, std::int64_t sample, std::int64_t position, std::int64_t head) {
  return reinterpret_cast<T*>(h.data) + sample * h.batch_stride + position * h.row_stride +
         head * h.head_stride;
}

/// Rows that will be packed next. A few are fetched into the cache between products,
/// so that packing does not wait for memory: head rows lie far apart, where hardware does not look.
class RowPrefetcher {
 public:
  void clear() { first_ = count_ = 0; }
  template <class T>
  void add(const T* rows, std::int64_t stride, std::int64_t count, std::int64_t dim) {
    constexpr auto kSize = static_cast<std::int64_t>(sizeof(T));
    ranges_[count_++] = {reinterpret_cast<const char*>(rows), stride * kSize, count, dim * kSize};
  }
  NEOX_INLINE void step(std::int64_t rows) {
    for (; rows > 0 && first_ < count_; --rows) {
      Range& r = ranges_[first_];
      for (std::int64_t b = 0; b < r.bytes; b += 64) __builtin_prefetch(r.at + b, 0, 3);
      r.at += r.stride;
      if (--r.count <= 0) ++first_;
    }
  }

 private:
  struct Range {
    const char* at;
    std::int64_t stride, count, bytes;
  };
  Range ranges_[4];
  int first_ = 0;
  int count_ = 0;
};

/// The mask of a problem whose tensors are in host memory.
inline MaskView mask_of(const AttentionProblem& p) {
  return mask_view(p.mask, Device{}, p.batch, p.heads, p.query_length, p.key_length);
}
/// Index of a position or head as MaskView takes it.
constexpr std::int32_t index(std::int64_t i) {
  return static_cast<std::int32_t>(i);
}

/// What ALiBi adds to q.k, before that is scaled, for each position between query and key.
inline float alibi_of(const AttentionProblem& p, std::int64_t head) {
  return p.alibi.global_heads == 0 ? 0.0f : -alibi_slope(p.alibi, head) / p.scale;
}
/// The same for 16 pairs in a row: the first `first` positions apart, the next ones `step` more.
NEOX_INLINE simd::Floats alibi_lanes(float per_position, std::int64_t first, float step) {
  constexpr simd::Floats kIndex = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return simd::broadcast(per_position) *
         (simd::broadcast(static_cast<float>(first)) + simd::broadcast(step) * kIndex);
}

/// to[i] = 0 or 1/(1-p), the factor of the probability with draw index first + i.
void dropout_factors(const AttentionDropout& dropout, std::uint64_t first, std::span<float> to);

/// Draw index of key 0 for one query.
inline std::uint64_t dropout_index(const AttentionProblem& p, std::int64_t sample,
                                   std::int64_t head, std::int64_t query) {
  const std::int64_t row =
      (p.dropout.first_sample + sample) * p.dropout.global_heads + p.dropout.first_head + head;
  return static_cast<std::uint64_t>((row * p.query_length + query) * p.key_length);
}

// One entry per dtype and kernel family. `lse` may be null.
void forward_blocks(const AttentionProblem& problem, ConstHeads q, ConstHeads k, ConstHeads v,
                    Tensor out, float* lse, AttentionKernels kernels);
/// query_length 1 without dropout: streams the cache once.
void forward_decode(const AttentionProblem& problem, ConstHeads q, ConstHeads k, ConstHeads v,
                    Tensor out, float* lse, AttentionKernels kernels);

void backward_blocks(const AttentionProblem& problem, ConstHeads q, ConstHeads k, ConstHeads v,
                     ConstTensor out, ConstTensor lse, ConstTensor dout, Heads dq, Heads dk,
                     Heads dv, Tensor workspace, AttentionKernels kernels);

/// Calls f.template operator()<Product, Element>() for the kernels and dtype chosen.
template <class F>
void dispatch(AttentionKernels kernels, DType dtype, F&& f) {
  visit_float(dtype, [&](auto zero) {
    using T = decltype(zero);
    if (kernels == AttentionKernels::portable) {
      f.template operator()<FloatProduct<simd::Portable>, T>();
#ifdef NEOX_ATTENTION_BF16
    } else if constexpr (std::is_same_v<T, bf16>) {
      f.template operator()<Bf16Product, T>();
#endif
    } else {
      f.template operator()<FloatProduct<simd::Best>, T>();
    }
  });
}

}  // namespace neox::cpu
