#pragma once
// Sixteen float lanes, twice: Avx512 (intrinsics) and Portable (the compiler's vector types, on any
// CPU). The attention kernels are templates over these.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>

#include "core/base/dtype.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#define NEOX_ATTENTION_AVX512 1
// GCC 12 takes the deliberately undefined operands inside its own intrinsics for mistakes.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#endif

#define NEOX_INLINE __attribute__((always_inline)) inline

namespace neox::cpu {

inline constexpr std::int64_t kLanes = 16;

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

/// log2 of positive normal numbers, NaN for NaN: m 2^e with m in [1/sqrt 2, sqrt 2), and the series
/// of artanh((m - 1) / (m + 1)), whose first dropped term is below 2^-31.
template <class S>
NEOX_INLINE typename S::F log2(typename S::F x) {
  using F = typename S::F;
  const auto [m, e] = S::split(x);
  const F s = (m - S::set1(1.0f)) / (m + S::set1(1.0f));
  const F s2 = s * s;
  F y = S::set1(2.885390082f / 9);  // 2 log2(e) / 9
#pragma GCC unroll 4
  for (int i = 7; i >= 1; i -= 2) y = S::fma(y, s2, S::set1(2.885390082f / static_cast<float>(i)));
  return S::fma(y, s, e);
}

struct Portable {
  typedef float F __attribute__((vector_size(64)));
  typedef std::int32_t M __attribute__((vector_size(64)));  // all bits of a lane set: true
  // Few enough accumulators for 16 registers of 32 bytes.
  static constexpr int kTileRows = 4;
  static constexpr int kTileVectors = 1;

  static NEOX_INLINE F zero() { return F{}; }
  static NEOX_INLINE F set1(float x) { return F{} + x; }
  static NEOX_INLINE F load(const float* p) {
    F v;
    std::memcpy(&v, p, sizeof v);
    return v;
  }
  static NEOX_INLINE void store(float* p, F v) { std::memcpy(p, &v, sizeof v); }
  static NEOX_INLINE F fma(F a, F b, F c) { return a * b + c; }
  /// NaN in `b` or `a` stays NaN when it is in `b`.
  static NEOX_INLINE F max(F a, F b) { return a > b ? a : b; }
  static NEOX_INLINE M lanes() { return M{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}; }
  static NEOX_INLINE M lanes_from(std::int64_t first) {
    return lanes() >= static_cast<std::int32_t>(std::clamp<std::int64_t>(first, 0, kLanes));
  }
  static NEOX_INLINE M lanes_below(std::int64_t end) {
    return lanes() < static_cast<std::int32_t>(std::clamp<std::int64_t>(end, 0, kLanes));
  }
  static NEOX_INLINE F select(M mask, F yes, F no) { return mask ? yes : no; }
  static NEOX_INLINE float reduce_add(F v) {
    float sum = 0;
    for (std::int64_t i = 0; i < kLanes; ++i) sum += v[i];
    return sum;
  }
  /// 2^x, 0 below the normal numbers, NaN for NaN.
  template <int kDegree>
  static NEOX_INLINE F exp2(F x) {
    constexpr auto& c = Exp2Coefficients<kDegree>::c;
    const F bounded = max(set1(-127.0f), x);
    const F shifted = bounded + 0x1.8p23f;  // rounds to the nearest integer, kept in the low bits
    const F f = bounded - (shifted - 0x1.8p23f);
    F y = set1(c[kDegree]);
    for (int i = kDegree - 1; i >= 0; --i) y = fma(y, f, set1(c[i]));
    M bits, exponent;
    std::memcpy(&bits, &y, sizeof bits);
    std::memcpy(&exponent, &shifted, sizeof exponent);
    bits += exponent << 23;
    std::memcpy(&y, &bits, sizeof y);
    return x < -126.0f ? F{} : y;
  }

  struct Split {
    F mantissa, exponent;
  };
  static NEOX_INLINE Split split(F x) {
    M bits;
    std::memcpy(&bits, &x, sizeof bits);
    const M e = (bits - 0x3f3504f3) >> 23;  // 0x3f3504f3: 1/sqrt 2
    bits -= e << 23;
    F m;
    std::memcpy(&m, &bits, sizeof m);
    return {x == x ? m : x, __builtin_convertvector(e, F)};
  }

  template <class T>
  static NEOX_INLINE F load_elements(const T* p, std::int64_t n) {
    F v{};
    for (std::int64_t i = 0; i < std::min(n, kLanes); ++i) v[i] = static_cast<float>(p[i]);
    return v;
  }
  template <class T>
  static NEOX_INLINE void store_elements(T* p, F v, std::int64_t n) {
    for (std::int64_t i = 0; i < std::min(n, kLanes); ++i) p[i] = static_cast<T>(v[i]);
  }
  /// 16 sums of 16 lanes: lane i of the result is the sum of v[i].
  static NEOX_INLINE F reduce_add_each(const F (&v)[16]) {
    F sums{};
    for (std::int64_t i = 0; i < kLanes; ++i) sums[i] = reduce_add(v[i]);
    return sums;
  }
  static NEOX_INLINE void transpose(F (&v)[16]) {
    for (std::int64_t i = 0; i < kLanes; ++i) {
      for (std::int64_t j = i + 1; j < kLanes; ++j) {
        const float t = v[i][j];
        v[i][j] = v[j][i];
        v[j][i] = t;
      }
    }
  }
};

#ifdef NEOX_ATTENTION_AVX512
struct Avx512 {
  using F = __m512;
  using M = __mmask16;
  static constexpr int kTileRows = 8;
  static constexpr int kTileVectors = 3;

  static NEOX_INLINE F zero() { return _mm512_setzero_ps(); }
  static NEOX_INLINE F set1(float x) { return _mm512_set1_ps(x); }
  static NEOX_INLINE F load(const float* p) { return _mm512_loadu_ps(p); }
  static NEOX_INLINE void store(float* p, F v) { _mm512_storeu_ps(p, v); }
  static NEOX_INLINE F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static NEOX_INLINE F max(F a, F b) { return _mm512_max_ps(a, b); }
  static NEOX_INLINE M lanes_below(std::int64_t end) {
    return static_cast<M>((1u << std::clamp<std::int64_t>(end, 0, kLanes)) - 1u);
  }
  static NEOX_INLINE M lanes_from(std::int64_t first) {
    return static_cast<M>(~lanes_below(first));
  }
  static NEOX_INLINE F select(M mask, F yes, F no) { return _mm512_mask_blend_ps(mask, no, yes); }
  static NEOX_INLINE float reduce_add(F v) { return _mm512_reduce_add_ps(v); }

  template <int kDegree>
  static NEOX_INLINE F exp2(F x) {
    constexpr auto& c = Exp2Coefficients<kDegree>::c;
    // 2^-160 is 0: keeps -inf from becoming inf - inf. vmaxps returns its second operand for NaN.
    const F bounded = _mm512_max_ps(set1(-160.0f), x);
    const F n = _mm512_roundscale_ps(bounded, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const F f = _mm512_sub_ps(bounded, n);
    F y = set1(c[kDegree]);
#pragma GCC unroll 8
    for (int i = kDegree - 1; i >= 0; --i) y = fma(y, f, set1(c[i]));
    return _mm512_scalef_ps(y, n);
  }

  struct Split {
    F mantissa, exponent;
  };
  static NEOX_INLINE Split split(F x) {
    // 0x3f3504f3: 1/sqrt 2
    const __m512i shifted = _mm512_sub_epi32(_mm512_castps_si512(x), _mm512_set1_epi32(0x3f3504f3));
    const __m512i e = _mm512_srai_epi32(shifted, 23);
    const __m512i bits = _mm512_sub_epi32(_mm512_castps_si512(x), _mm512_slli_epi32(e, 23));
    const F m =
        _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), _mm512_castsi512_ps(bits), x);
    return {m, _mm512_cvtepi32_ps(e)};
  }

  static NEOX_INLINE F from_bits(__m256i bits, bf16) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
  }
  static NEOX_INLINE F from_bits(__m256i bits, f16) {
    return _mm512_cvtph_ps(bits);
  }
  template <class T>
  static NEOX_INLINE F load_elements(const T* p, std::int64_t n) {
    if constexpr (std::is_same_v<T, float>) {
      return n >= kLanes ? _mm512_loadu_ps(p) : _mm512_maskz_loadu_ps(lanes_below(n), p);
    } else {
      return from_bits(n >= kLanes ? _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))
                                   : _mm256_maskz_loadu_epi16(lanes_below(n), p),
                       T{});
    }
  }
  static NEOX_INLINE __m256i to_bits(F v, bf16) {
    const __m512i u = _mm512_castps_si512(v);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_srli_epi32(
        _mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7fff)), odd), 16);
    const __m512i nan = _mm512_or_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(0x40));
    return _mm512_cvtepi32_epi16(
        _mm512_mask_blend_epi32(_mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q), rounded, nan));
  }
  static NEOX_INLINE __m256i to_bits(F v, f16) {
    return _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  template <class T>
  static NEOX_INLINE void store_elements(T* p, F v, std::int64_t n) {
    if constexpr (std::is_same_v<T, float>) {
      if (n >= kLanes) {
        _mm512_storeu_ps(p, v);
      } else {
        _mm512_mask_storeu_ps(p, lanes_below(n), v);
      }
    } else if (n >= kLanes) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), to_bits(v, T{}));
    } else {
      _mm256_mask_storeu_epi16(p, lanes_below(n), to_bits(v, T{}));
    }
  }

  // Four rounds of exchanging halves, quarters, ...: rows become columns.
  static NEOX_INLINE void transpose(F (&v)[16]) {
    F t[16];
#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 2) {
      t[i] = _mm512_unpacklo_ps(v[i], v[i + 1]);
      t[i + 1] = _mm512_unpackhi_ps(v[i], v[i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) {
      v[i] = _mm512_shuffle_ps(t[i], t[i + 2], 0x44);
      v[i + 1] = _mm512_shuffle_ps(t[i], t[i + 2], 0xee);
      v[i + 2] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0x44);
      v[i + 3] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0xee);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      t[i] = _mm512_shuffle_f32x4(v[i], v[i + 4], 0x88);
      t[i + 4] = _mm512_shuffle_f32x4(v[i], v[i + 4], 0xdd);
      t[i + 8] = _mm512_shuffle_f32x4(v[i + 8], v[i + 12], 0x88);
      t[i + 12] = _mm512_shuffle_f32x4(v[i + 8], v[i + 12], 0xdd);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      v[i] = _mm512_shuffle_f32x4(t[i], t[i + 8], 0x88);
      v[i + 8] = _mm512_shuffle_f32x4(t[i], t[i + 8], 0xdd);
      v[i + 4] = _mm512_shuffle_f32x4(t[i + 4], t[i + 12], 0x88);
      v[i + 12] = _mm512_shuffle_f32x4(t[i + 4], t[i + 12], 0xdd);
    }
  }
  static NEOX_INLINE F reduce_add_each(F (&v)[16]) {
    transpose(v);
#pragma GCC unroll 4
    for (int step = 8; step >= 1; step /= 2) {
#pragma GCC unroll 8
      for (int i = 0; i < step; ++i) v[i] = _mm512_add_ps(v[i], v[i + step]);
    }
    return v[0];
  }
};
using BestSimd = Avx512;
#else
using BestSimd = Portable;
#endif

}  // namespace neox::cpu
