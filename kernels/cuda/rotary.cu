// Rotary position embedding, and copies between layouts of heads. A row is a token; its columns run
// over the channels of all heads, so that narrow heads fill warps too.

#include "kernels/cuda/attention_kernels.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/vectors.cuh"

namespace neox::cuda {
namespace {

/// Where a thread works: column `column` of heads of `width` columns each.
struct HeadColumn {
  std::int64_t head, channel;
  /// Tokens and columns have fewer than 2^31 elements: 32-bit divisions are several times faster.
  NEOX_HOST_DEVICE HeadColumn(std::int64_t column, std::uint32_t width) {
    const auto at = static_cast<std::uint32_t>(column);
    head = at / width;
    channel = at - static_cast<std::uint32_t>(head) * width;
  }
};

/// First element of head 0 of a token.
template <class Memory>
NEOX_HOST_DEVICE std::int64_t token_offset(const HeadsAt<Memory>& heads, std::int64_t token,
                                           std::uint32_t seq) {
  const auto at = static_cast<std::uint32_t>(token);
  const std::uint32_t sample = at / seq;
  return sample * heads.batch_stride + (at - sample * seq) * heads.row_stride;
}

/// Whether N neighbours of every head can be moved at once.
template <int N, class Memory>
bool in_vectors(const HeadsAt<Memory>& heads, std::int64_t width) {
  return aligned(heads.data) && width % N == 0 && heads.batch_stride % N == 0 &&
         heads.row_stride % N == 0 && heads.head_stride % N == 0;
}

template <class T>
struct Rotate {
  HeadsAt<T> x;
  const std::int32_t* positions;
  const float *cosines, *sines;
  std::uint32_t seq, half;
  float sign;
  template <int N>
  NEOX_HOST_DEVICE void run(std::int64_t token, std::int64_t column) const {
    const HeadColumn at(column, half);
    T* first = x.data + token_offset(x, token, seq) + at.head * x.head_stride + at.channel;
    const std::int64_t angle = std::int64_t{positions[token]} * half + at.channel;
    float a[N], b[N], cosine[N], sine[N];
    load<N>(first, a);
    load<N>(first + half, b);
    load<N>(cosines + angle, cosine);
    load<N>(sines + angle, sine);
    for (int i = 0; i < N; ++i) {
      const float s = sine[i] * sign, turned = a[i] * cosine[i] - b[i] * s;
      b[i] = b[i] * cosine[i] + a[i] * s;
      a[i] = turned;
    }
    store<N>(first, a);
    store<N>(first + half, b);
  }
};

template <class T>
struct Copy {
  HeadsAt<const T> from;
  HeadsAt<T> to;
  std::uint32_t seq, head_dim;
  template <int N>
  NEOX_HOST_DEVICE void run(std::int64_t token, std::int64_t column) const {
    const HeadColumn at(column, head_dim);
    const T* source =
        from.data + token_offset(from, token, seq) + at.head * from.head_stride + at.channel;
    T* target = to.data + token_offset(to, token, seq) + at.head * to.head_stride + at.channel;
    using Part = Pack<T, N>;  // moved as it is: a NaN keeps its bits
    *reinterpret_cast<Part*>(target) = *reinterpret_cast<const Part*>(source);
  }
};

template <class T, class Memory>
auto typed(const HeadsAt<Memory>& h) {
  using Element = std::conditional_t<std::is_const_v<Memory>, const T, T>;
  return HeadsAt<Element>{static_cast<Element*>(h.data), h.batch_stride, h.row_stride,
                          h.head_stride};
}

}  // namespace

void rotary(const Launch& launch, DType dtype, const Rotary& r) {
  if (r.seq <= 0 || r.half <= 0) return;
  visit_float(dtype, [&](auto zero) {
    using T = decltype(zero);
    constexpr int kN = kVector<T>;
    const Rotate<T> body{typed<T>(r.x),
                         r.positions,
                         r.cosines,
                         r.sines,
                         static_cast<std::uint32_t>(r.seq),
                         static_cast<std::uint32_t>(r.half),
                         r.inverse ? -1.0f : 1.0f};
    const bool whole = in_vectors<kN>(r.x, r.half) && aligned(r.cosines, r.sines);
    run<kN>(launch, body, row_extent<kN>(r.batch * r.seq, r.heads * r.half, whole));
  });
}

void copy_heads(const Launch& launch, DType dtype, const CopyHeads& c) {
  if (c.seq <= 0 || c.head_dim <= 0) return;
  visit_float(dtype, [&](auto zero) {
    using T = decltype(zero);
    constexpr int kN = kVector<T>;
    const Copy<T> body{typed<T>(c.from), typed<T>(c.to), static_cast<std::uint32_t>(c.seq),
                       static_cast<std::uint32_t>(c.head_dim)};
    const bool whole = in_vectors<kN>(c.from, c.head_dim) && in_vectors<kN>(c.to, c.head_dim);
    run<kN>(launch, body, row_extent<kN>(c.batch * c.seq, c.heads * c.head_dim, whole));
  });
}

}  // namespace neox::cuda
