#pragma once
// Loops over vectors, and elementary functions of them.

#include "kernels/cpu/simd.h"

namespace neox::simd {

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
    return Best::load_elements(from, count);
  }
  template <class T>
  void store(T* to, Floats v) const {
    Best::store_elements(to, v, count);
  }
  Floats keep(Floats v) const { return Best::select(Best::lanes_below(count), v, Floats{}); }
};

/// body(lanes, i) for i = begin, begin + 16, ... < end.
template <class Body>
inline void vector_for(std::int64_t begin, std::int64_t end, Body&& body) {
  std::int64_t i = begin;
  for (; i + kLanes <= end; i += kLanes) body(AllLanes{}, i);
  if (i < end) body(FirstLanes{end - i}, i);
}

/// Coefficients of 2^f on [-1/2, 1/2], lowest first: minimax in relative error (Remez).
/// Degree 4 is good to 2.6e-6, ample for probabilities that are rounded to bf16; degree 6 to 2e-9,
/// so that float rounding is all that is left.
template <int kDegree>
struct Exp2Coefficients;
template <>
struct Exp2Coefficients<4> {
  static constexpr float c[] = {0x1.ffffe8p-1f, 0x1.62e0dcp-1f, 0x1.ec06dap-3f, 0x1.ca1440p-5f,
                                0x1.3997d6p-7f};
};
template <>
struct Exp2Coefficients<6> {
  static constexpr float c[] = {0x1.000000p+0f, 0x1.62e430p-1f,  0x1.ebfbdap-3f, 0x1.c6aed4p-5f,
                                0x1.3b2dbcp-7f, 0x1.5f456ap-10f, 0x1.41d334p-13f};
};

/// 2^x for x < 128, 0 where it underflows, NaN for NaN; S is Portable or Avx512.
template <class S, int kDegree>
NEOX_INLINE Floats exp2(Floats x) {
  constexpr auto& c = Exp2Coefficients<kDegree>::c;
  const Floats bounded = S::max(broadcast(-160.0f), x);  // keeps -inf from becoming inf - inf
  const Floats n = S::round(bounded);
  const Floats f = bounded - n;
  Floats y = broadcast(c[kDegree]);
#pragma GCC unroll 8
  for (int i = kDegree - 1; i >= 0; --i) y = S::multiply_add(y, f, broadcast(c[i]));
  return S::scale_by_power(y, n);
}

/// log2 of positive normal numbers, NaN for NaN: m 2^e with m in [1/sqrt 2, sqrt 2), and the series
/// of artanh((m - 1) / (m + 1)), whose first dropped term is below 2^-31.
NEOX_INLINE Floats log2(Floats x) {
  const Ints bits = std::bit_cast<Ints>(x);
  const Ints e = (bits - 0x3f3504f3) >> 23;  // 0x3f3504f3: 1/sqrt 2
  const Floats m = x == x ? std::bit_cast<Floats>(bits - (e << 23)) : x;
  const Floats s = (m - 1.0f) / (m + 1.0f);
  const Floats s2 = s * s;
  Floats y = broadcast(2.885390082f / 9);  // 2 log2(e) / 9
#pragma GCC unroll 4
  for (int i = 7; i >= 1; i -= 2) y = y * s2 + 2.885390082f / static_cast<float>(i);
  return y * s + __builtin_convertvector(e, Floats);
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
  return Best::scale_by_power(fma(p, r * r, r) + 1.0f, n);
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
