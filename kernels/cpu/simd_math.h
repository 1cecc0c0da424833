#pragma once
// Vectors of 16 floats in the compiler's own vector types (one AVX-512 register, or several smaller
// ones: the same code everywhere), conversions from and to the storage types, and elementary
// functions. Sums go in a fixed order, so results repeat.

#include <cmath>
#include <cstring>

#ifdef __AVX512F__
#include <immintrin.h>
#endif

#include "core/base/dtype.h"

namespace neox::simd {

inline constexpr std::int64_t kLanes = 16;
using Floats = float __attribute__((vector_size(64)));
using Words = std::uint32_t __attribute__((vector_size(64)));
using Ints = std::int32_t __attribute__((vector_size(64)));
using HalfWords = std::uint16_t __attribute__((vector_size(32)));

#ifdef __AVX512F__
// The plain forms of some intrinsics make GCC 12 warn of an uninitialized variable in its own
// header; those with a mask of all lanes compile to the same instructions.
inline constexpr __mmask16 kAll = 0xffff;
#endif

inline Floats broadcast(float x) {
  return Floats{} + x;
}

inline Floats load(const float* from) {
  Floats v;
  std::memcpy(&v, from, sizeof v);
  return v;
}
inline Floats load(const bf16* from) {
  HalfWords half;
  std::memcpy(&half, from, sizeof half);
  return std::bit_cast<Floats>(__builtin_convertvector(half, Words) << 16);
}
inline Floats load(const f16* from) {
#ifdef __AVX512F__
  __m256i half;
  std::memcpy(&half, from, sizeof half);
  return std::bit_cast<Floats>(_mm512_maskz_cvtph_ps(kAll, half));
#else
  Floats v;
  for (int i = 0; i < kLanes; ++i) v[i] = static_cast<float>(from[i]);
  return v;
#endif
}

inline void store(float* to, Floats v) {
  std::memcpy(to, &v, sizeof v);
}
/// Rounds as bf16(float) does, except that the CPU's instruction, where there is one, flushes
/// denormals (below 1.2e-38) to 0. It is worth that: the integer form costs as much as exp.
inline void store(bf16* to, Floats v) {
#ifdef __AVX512BF16__
  const __m256bh half = _mm512_maskz_cvtneps_pbh(kAll, std::bit_cast<__m512>(v));
#else
  const Words u = std::bit_cast<Words>(v);
  const Words rounded = u + 0x7fffu + ((u >> 16) & 1u);
  const Words quiet = u | 0x400000u;
  const HalfWords half = __builtin_convertvector((v == v ? rounded : quiet) >> 16, HalfWords);
#endif
  std::memcpy(static_cast<void*>(to), &half, sizeof half);
}
inline void store(f16* to, Floats v) {
#ifdef __AVX512F__
  const __m256i half =
      _mm512_maskz_cvtps_ph(kAll, std::bit_cast<__m512>(v), _MM_FROUND_TO_NEAREST_INT);
  std::memcpy(static_cast<void*>(to), &half, sizeof half);
#else
  for (int i = 0; i < kLanes; ++i) to[i] = f16(v[i]);
#endif
}

/// All lanes, or the first few at the end of a row: what vector_for hands to its body.
struct AllLanes {
  template <class T>
  Floats load(const T* from) const {
    return simd::load(from);
  }
  template <class T>
  void store(T* to, Floats v) const {
    simd::store(to, v);
  }
  /// Zeroes the lanes beyond the end.
  Floats keep(Floats v) const { return v; }
};
struct FirstLanes {
  std::int64_t count;
  template <class T>
  Floats load(const T* from) const {
    T all[kLanes] = {};
    std::memcpy(static_cast<void*>(all), from, static_cast<std::size_t>(count) * sizeof(T));
    return simd::load(all);
  }
  template <class T>
  void store(T* to, Floats v) const {
    T all[kLanes];
    simd::store(all, v);
    std::memcpy(static_cast<void*>(to), all, static_cast<std::size_t>(count) * sizeof(T));
  }
  Floats keep(Floats v) const {
    constexpr Ints kIndex = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return kIndex < static_cast<std::int32_t>(count) ? v : Floats{};
  }
};

/// body(lanes, i) for i = begin, begin + 16, ... < end.
template <class Body>
inline void vector_for(std::int64_t begin, std::int64_t end, Body&& body) {
  std::int64_t i = begin;
  for (; i + kLanes <= end; i += kLanes) body(AllLanes{}, i);
  if (i < end) body(FirstLanes{end - i}, i);
}

/// a where a > b, else b: so b where either is NaN.
inline Floats max(Floats a, Floats b) {
#ifdef __AVX512F__
  return std::bit_cast<Floats>(
      _mm512_maskz_max_ps(kAll, std::bit_cast<__m512>(a), std::bit_cast<__m512>(b)));
#else
  return a > b ? a : b;
#endif
}
/// a where a < b, else b: so b where either is NaN.
inline Floats min(Floats a, Floats b) {
#ifdef __AVX512F__
  return std::bit_cast<Floats>(
      _mm512_maskz_min_ps(kAll, std::bit_cast<__m512>(a), std::bit_cast<__m512>(b)));
#else
  return a < b ? a : b;
#endif
}
/// a b + c with one rounding.
inline Floats fma(Floats a, Floats b, Floats c) {
#ifdef __AVX512F__
  return std::bit_cast<Floats>(_mm512_fmadd_ps(std::bit_cast<__m512>(a), std::bit_cast<__m512>(b),
                                               std::bit_cast<__m512>(c)));
#else
  Floats v;
  for (int i = 0; i < kLanes; ++i) v[i] = std::fma(a[i], b[i], c[i]);
  return v;
#endif
}

inline float sum(Floats v) {
  float part[kLanes];
  store(part, v);
  for (std::int64_t half = kLanes / 2; half > 0; half /= 2) {
    for (std::int64_t i = 0; i < half; ++i) part[i] += part[i + half];
  }
  return part[0];
}
inline float maximum(Floats v) {
  float result = v[0];
  for (int i = 1; i < kLanes; ++i) result = v[i] > result ? v[i] : result;
  return result;
}

/// p 2^n for whole n in [-151, 129]; the result may be denormal or infinite.
inline Floats scale_by_power(Floats p, Floats n) {
#ifdef __AVX512F__
  return std::bit_cast<Floats>(
      _mm512_maskz_scalef_ps(kAll, std::bit_cast<__m512>(p), std::bit_cast<__m512>(n)));
#else
  const Ints whole = __builtin_convertvector(n, Ints);
  const Ints half = whole >> 1;  // two steps: one factor alone may leave the range of exponents
  return p * std::bit_cast<Floats>((half + 127) << 23) *
         std::bit_cast<Floats>((whole - half + 127) << 23);
#endif
}

/// e^x within 1 ulp; 0 and infinity where it underflows and overflows; NaN stays NaN.
/// Cody-Waite reduction by n ln 2, then a minimax polynomial (relative error 3.1e-9).
inline Floats exp(Floats x) {
  x = min(broadcast(89.0f), max(broadcast(-104.0f), x));
  constexpr float kRound = 0x1.8p23f;  // adding it rounds to a whole number
  const Floats n = fma(x, broadcast(0x1.715476p+0f), broadcast(kRound)) - kRound;
  const Floats r = fma(n, broadcast(-0x1.7f7d1cp-20f), fma(n, broadcast(-0x1.62e4p-1f), x));
  Floats p = broadcast(1.381446724e-03f);
  p = fma(p, r, broadcast(8.368780836e-03f));
  p = fma(p, r, broadcast(4.166839272e-02f));
  p = fma(p, r, broadcast(1.666651964e-01f));
  p = fma(p, r, broadcast(4.999999404e-01f));
  return scale_by_power(fma(p, r * r, r) + 1.0f, n);
}

/// 1 / (1 + e^-x) within 2.5 ulp.
inline Floats sigmoid(Floats x) {
  return 1.0f / (1.0f + exp(-x));
}

/// The normal distribution: cdf = (1 + erf(x / sqrt 2)) / 2, and density = e^(-x^2 / 2) / sqrt(2
/// pi). The lower tail keeps its relative accuracy: with u = |x|, Phi(-u) = e^(-u^2/2) P(t), t =
/// 1/(1 + u/4), P a minimax polynomial without constant term (relative error 8.7e-9 for u < 14.5,
/// where f32 ends). Measured: cdf within 5.3 ulp of itself down to 1e-38, density within 3.6.
struct Normal {
  Floats cdf;
  Floats density;
};
inline Normal normal(Floats x) {
  const Floats u = min(broadcast(16.0f), max(-x, x));
  const Floats square = u * u;
  const Floats lost = fma(u, u, -square);  // what rounding took from the square
  const Floats e = exp(-0.5f * square) * (1.0f - 0.5f * lost);
  const Floats t = 1.0f / (1.0f + 0.25f * u);
  Floats p = broadcast(1.689240709e-02f);
  p = fma(p, t, broadcast(-6.453717500e-02f));
  p = fma(p, t, broadcast(5.587948486e-02f));
  p = fma(p, t, broadcast(2.261088975e-02f));
  p = fma(p, t, broadcast(1.773472130e-02f));
  p = fma(p, t, broadcast(8.385122567e-02f));
  p = fma(p, t, broadcast(7.301280648e-02f));
  p = fma(p, t, broadcast(9.528785944e-02f));
  p = fma(p, t, broadcast(9.952145815e-02f));
  p = fma(p, t, broadcast(9.974633157e-02f));
  const Floats tail = e * (p * t);
  return {x > 0.0f ? 1.0f - tail : tail, e * 0.398942280f};
}

}  // namespace neox::simd
