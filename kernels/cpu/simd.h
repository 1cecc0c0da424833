#pragma once
// Vectors of 16 floats (one AVX-512 register, or several smaller ones): the types and operations of
// all CPU kernels. Portable is the compiler's own vector arithmetic and runs anywhere; Avx512
// replaces what intrinsics do better; Best is what this build's CPU runs. The attention kernels are
// templates over them, so that both are tested on one machine; the rest uses the free functions.
// Sums go in a fixed order, so results repeat.

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "core/base/dtype.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#define NEOX_AVX512 1
// GCC 12 takes the deliberately undefined operands inside its own intrinsics for mistakes.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#endif

#define NEOX_INLINE __attribute__((always_inline)) inline

namespace neox::simd {

inline constexpr std::int64_t kLanes = 16;
using Floats = float __attribute__((vector_size(64)));
using Words = std::uint32_t __attribute__((vector_size(64)));
using Ints = std::int32_t __attribute__((vector_size(64)));
using HalfWords = std::uint16_t __attribute__((vector_size(32)));

NEOX_INLINE Floats broadcast(float x) {
  return Floats{x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x};
}

struct Portable {
  using Mask = Ints;  // all bits of a lane set: true

  static NEOX_INLINE Floats load(const float* from) {
    Floats v;
    std::memcpy(&v, from, sizeof v);
    return v;
  }
  static NEOX_INLINE Floats load(const bf16* from) {
    HalfWords half;
    std::memcpy(&half, from, sizeof half);
    return std::bit_cast<Floats>(__builtin_convertvector(half, Words) << 16);
  }
  static NEOX_INLINE Floats load(const f16* from) {
    Floats v;
    for (int i = 0; i < kLanes; ++i) v[i] = static_cast<float>(from[i]);
    return v;
  }
  static NEOX_INLINE void store(float* to, Floats v) { std::memcpy(to, &v, sizeof v); }
  static NEOX_INLINE void store(bf16* to, Floats v) {
    const Words u = std::bit_cast<Words>(v);
    const Words rounded = u + 0x7fffu + ((u >> 16) & 1u);
    const Words quiet = u | 0x400000u;
    const HalfWords half = __builtin_convertvector((v == v ? rounded : quiet) >> 16, HalfWords);
    std::memcpy(static_cast<void*>(to), &half, sizeof half);
  }
  static NEOX_INLINE void store(f16* to, Floats v) {
    for (int i = 0; i < kLanes; ++i) to[i] = f16(v[i]);
  }
  /// The first `n` of 16 elements (any n; none when n <= 0, all when n >= 16); other lanes are 0.
  template <class T>
  static NEOX_INLINE Floats load_elements(const T* from, std::int64_t n) {
    if (n >= kLanes) return load(from);
    T all[kLanes] = {};
    if (n > 0) std::memcpy(static_cast<void*>(all), from, static_cast<std::size_t>(n) * sizeof(T));
    return load(all);
  }
  template <class T>
  static NEOX_INLINE void store_elements(T* to, Floats v, std::int64_t n) {
    if (n >= kLanes) return store(to, v);
    T all[kLanes];
    store(all, v);
    if (n > 0) std::memcpy(static_cast<void*>(to), all, static_cast<std::size_t>(n) * sizeof(T));
  }

  /// a b + c with one rounding.
  static NEOX_INLINE Floats fma(Floats a, Floats b, Floats c) {
    Floats v;
    for (int i = 0; i < kLanes; ++i) v[i] = std::fma(a[i], b[i], c[i]);
    return v;
  }
  /// a b + c with one rounding or two, whichever is faster.
  static NEOX_INLINE Floats multiply_add(Floats a, Floats b, Floats c) { return a * b + c; }
  /// a where a > b, else b: so b where either is NaN.
  static NEOX_INLINE Floats max(Floats a, Floats b) { return a > b ? a : b; }
  static NEOX_INLINE Floats min(Floats a, Floats b) { return a < b ? a : b; }
  /// The nearest whole number; |x| < 2^22.
  static NEOX_INLINE Floats round(Floats x) { return (x + 0x1.8p23f) - 0x1.8p23f; }
  /// p 2^n for whole n in [-252, 254]; the result may be denormal or infinite.
  static NEOX_INLINE Floats scale_by_power(Floats p, Floats n) {
    const Ints whole = __builtin_convertvector(n, Ints);
    const Ints half = whole >> 1;  // two steps: one factor alone may leave the range of exponents
    return p * std::bit_cast<Floats>((half + 127) << 23) *
           std::bit_cast<Floats>((whole - half + 127) << 23);
  }

  /// Lanes i < end, and i >= first.
  static NEOX_INLINE Mask lanes_below(std::int64_t end) {
    constexpr Ints kIndex = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return kIndex < static_cast<std::int32_t>(std::clamp<std::int64_t>(end, 0, kLanes));
  }
  static NEOX_INLINE Mask lanes_from(std::int64_t first) { return ~lanes_below(first); }
  static NEOX_INLINE Floats select(Mask mask, Floats yes, Floats no) { return mask ? yes : no; }

  static NEOX_INLINE float reduce_add(Floats v) {
    float part[kLanes];
    store(part, v);
    for (std::int64_t half = kLanes / 2; half > 0; half /= 2) {
      for (std::int64_t i = 0; i < half; ++i) part[i] += part[i + half];
    }
    return part[0];
  }
};

#ifdef NEOX_AVX512
struct Avx512 : Portable {
  using Mask = __mmask16;

  using Portable::load;
  static NEOX_INLINE Floats load(const f16* from) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
  }
  using Portable::store;
#ifdef __AVX512BF16__
  /// The instruction flushes denormals (below 1.2e-38) to 0, and is worth that: the integer form
  /// costs as much as exp.
  static NEOX_INLINE void store(bf16* to, Floats v) {
    const __m256bh half = _mm512_cvtneps_pbh(v);
    std::memcpy(static_cast<void*>(to), &half, sizeof half);
  }
#endif
  static NEOX_INLINE void store(f16* to, Floats v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                        _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
  template <class T>
  static NEOX_INLINE Floats load_elements(const T* from, std::int64_t n) {
    if (n >= kLanes) return load(from);
    if constexpr (std::is_same_v<T, float>) {
      return _mm512_maskz_loadu_ps(lanes_below(n), from);
    } else {
      const __m256i half = _mm256_maskz_loadu_epi16(lanes_below(n), from);
      return load(reinterpret_cast<const T*>(&half));
    }
  }
  template <class T>
  static NEOX_INLINE void store_elements(T* to, Floats v, std::int64_t n) {
    if (n >= kLanes) return store(to, v);
    if constexpr (std::is_same_v<T, float>) {
      _mm512_mask_storeu_ps(to, lanes_below(n), v);
    } else {
      __m256i half;
      store(reinterpret_cast<T*>(&half), v);
      _mm256_mask_storeu_epi16(to, lanes_below(n), half);
    }
  }

  static NEOX_INLINE Floats fma(Floats a, Floats b, Floats c) {
    return _mm512_fmadd_ps(a, b, c);
  }
  static NEOX_INLINE Floats multiply_add(Floats a, Floats b, Floats c) {
    return fma(a, b, c);
  }
  static NEOX_INLINE Floats max(Floats a, Floats b) {
    return _mm512_max_ps(a, b);
  }
  static NEOX_INLINE Floats min(Floats a, Floats b) {
    return _mm512_min_ps(a, b);
  }
  static NEOX_INLINE Floats round(Floats x) {
    return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  static NEOX_INLINE Floats scale_by_power(Floats p, Floats n) {
    return _mm512_scalef_ps(p, n);
  }

  static NEOX_INLINE Mask lanes_below(std::int64_t end) {
    return static_cast<Mask>((1u << std::clamp<std::int64_t>(end, 0, kLanes)) - 1u);
  }
  static NEOX_INLINE Mask lanes_from(std::int64_t first) {
    return static_cast<Mask>(~lanes_below(first));
  }
  static NEOX_INLINE Floats select(Mask mask, Floats yes, Floats no) {
    return _mm512_mask_blend_ps(mask, no, yes);
  }
  static NEOX_INLINE float reduce_add(Floats v) {
    return _mm512_reduce_add_ps(v);
  }
};
using Best = Avx512;
#else
using Best = Portable;
#endif

template <class T>
NEOX_INLINE Floats load(const T* from) {
  return Best::load(from);
}
template <class T>
NEOX_INLINE void store(T* to, Floats v) {
  Best::store(to, v);
}
NEOX_INLINE Floats fma(Floats a, Floats b, Floats c) {
  return Best::fma(a, b, c);
}
NEOX_INLINE Floats max(Floats a, Floats b) {
  return Best::max(a, b);
}
NEOX_INLINE Floats min(Floats a, Floats b) {
  return Best::min(a, b);
}
NEOX_INLINE float sum(Floats v) {
  return Best::reduce_add(v);
}
NEOX_INLINE float maximum(Floats v) {
  float result = v[0];
  for (int i = 1; i < kLanes; ++i) result = v[i] > result ? v[i] : result;
  return result;
}

/// Rows of 16 x 16 words (Words or Floats) become columns, in the classic four rounds: 32-bit and
/// 64-bit interleaves, then 128-bit lanes.
template <class V>
NEOX_INLINE void transpose(V (&t)[16]) {
  V u[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    u[i] = __builtin_shuffle(t[i], t[i + 1],
                             Words{0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29});
    u[i + 1] = __builtin_shuffle(t[i], t[i + 1],
                                 Words{2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31});
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j) {
      t[i + 2 * j] = __builtin_shuffle(
          u[i + j], u[i + j + 2], Words{0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29});
      t[i + 2 * j + 1] =
          __builtin_shuffle(u[i + j], u[i + j + 2],
                            Words{2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31});
    }
  }
  // t[4g + c] now holds, in 128-bit lane l, rows 4g..4g+3 of column 4l + c.
  const auto even_lanes = [](V a, V b) {
    return __builtin_shuffle(a, b, Words{0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27});
  };
  const auto odd_lanes = [](V a, V b) {
    return __builtin_shuffle(a, b,
                             Words{4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31});
  };
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    const V low_even = even_lanes(t[c], t[4 + c]), high_even = even_lanes(t[8 + c], t[12 + c]);
    const V low_odd = odd_lanes(t[c], t[4 + c]), high_odd = odd_lanes(t[8 + c], t[12 + c]);
    u[c] = even_lanes(low_even, high_even);
    u[4 + c] = even_lanes(low_odd, high_odd);
    u[8 + c] = odd_lanes(low_even, high_even);
    u[12 + c] = odd_lanes(low_odd, high_odd);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) t[i] = u[i];
}

/// Lane i of the result is the sum of v[i].
NEOX_INLINE Floats sum_each(Floats (&v)[16]) {
  transpose(v);
#pragma GCC unroll 4
  for (int step = 8; step >= 1; step /= 2) {
#pragma GCC unroll 8
    for (int i = 0; i < step; ++i) v[i] += v[i + step];
  }
  return v[0];
}

}  // namespace neox::simd
