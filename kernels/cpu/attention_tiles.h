#pragma once
// Packing of head blocks and register-tiled products of small matrices, for the attention kernels.
//
// A product's operands are "words": one float, or a pair of bf16 that are neighbours along the
// contraction. The right operand is packed [k][n] words, so that 16 columns are one vector; words
// of the left operand are broadcast. Packed rows and columns past the data are zero.

#include "kernels/cpu/simd_math.h"

namespace neox::cpu {

using simd::kLanes;

/// Rows and vectors of a product tile: as many accumulators as the registers hold. Portable code
/// has to live with 16 registers of 32 bytes.
template <class Simd>
inline constexpr int kTileRows = 4;
template <class Simd>
inline constexpr int kTileVectors = 1;
#ifdef NEOX_AVX512
template <>
inline constexpr int kTileRows<simd::Avx512> = 8;
template <>
inline constexpr int kTileVectors<simd::Avx512> = 3;
#endif

constexpr std::int64_t round_up(std::int64_t x, std::int64_t step) {
  return (x + step - 1) / step * step;
}
constexpr std::int64_t div_up(std::int64_t x, std::int64_t y) {
  return (x + y - 1) / y;
}

/// Rounds towards minus infinity.
constexpr std::int64_t floor_div(std::int64_t x, std::int64_t y) {
  return x >= 0 ? x / y : -((-x + y - 1) / y);
}

/// Products of floats.
template <class SimdT>
struct FloatProduct {
  using Simd = SimdT;
  using F = simd::Floats;
  using Word = float;
  static constexpr int kPair = 1;
  static constexpr int kExpDegree = 6;
  static constexpr std::int64_t kKeyBlock = 128;
  static constexpr int kScoreVectors = std::min(2, kTileVectors<Simd>);

  static NEOX_INLINE F broadcast(const float* a) { return simd::broadcast(*a); }
  static NEOX_INLINE F load(const float* b) { return Simd::load(b); }
  static NEOX_INLINE F multiply_add(F acc, F a, F b) { return Simd::multiply_add(a, b, acc); }
  /// Words [k, 16 columns] from `kPair` rows along k.
  static NEOX_INLINE void store_words(float* to, const F* rows) { Simd::store(to, rows[0]); }

  /// 16 words of a row whose next `n` elements exist.
  template <class T>
  static NEOX_INLINE F load_row(const T* row, std::int64_t n) {
    return Simd::load_elements(row, n);
  }

  /// Rows of `n` x `dim` elements as words [rows][ld], both padded with zeros.
  template <class T>
  static void pack_rows(const T* from, std::int64_t stride, std::int64_t n, std::int64_t rows,
                        std::int64_t dim, float* to, std::int64_t ld) {
    for (std::int64_t r = 0; r < n; ++r) {
      for (std::int64_t d = 0; d < ld; d += kLanes) {
        Simd::store(to + r * ld + d, Simd::load_elements(from + r * stride + d, dim - d));
      }
    }
    std::fill(to + n * ld, to + std::max(n, rows) * ld, 0.0f);
  }
  /// The same rows for contraction over rows.
  template <class T>
  static void pack_pairs(const T* from, std::int64_t stride, std::int64_t n, std::int64_t rows,
                         std::int64_t dim, float* to, std::int64_t ld) {
    pack_rows(from, stride, n, rows, dim, to, ld);
  }
  /// The transpose, words [dim][ld], columns padded to a multiple of 16.
  template <class T>
  static void pack_transposed(const T* from, std::int64_t stride, std::int64_t n, std::int64_t dim,
                              float* to, std::int64_t ld) {
    for (std::int64_t r = 0; r < n; r += kLanes) {
      for (std::int64_t d = 0; d < dim; d += kLanes) {
        F v[kLanes];
#pragma GCC unroll 16
        for (std::int64_t i = 0; i < kLanes; ++i) {
          v[i] = r + i < n ? Simd::load_elements(from + (r + i) * stride + d, dim - d)
                           : simd::Floats{};
        }
        simd::transpose(v);
#pragma GCC unroll 16
        for (std::int64_t i = 0; i < kLanes; ++i) Simd::store(to + (d + i) * ld + r, v[i]);
      }
    }
  }
};

#if defined(NEOX_AVX512) && defined(__AVX512BF16__)
#define NEOX_ATTENTION_BF16 1
/// Products of bf16 pairs summed in float: vdpbf16ps.
struct Bf16Product {
  using Simd = simd::Avx512;
  using F = simd::Floats;
  using Word = std::uint32_t;
  static constexpr int kPair = 2;
  static constexpr int kExpDegree = 4;
  static constexpr std::int64_t kKeyBlock = 128;
  static constexpr int kScoreVectors = 2;

  static NEOX_INLINE F broadcast(const Word* a) {
    return _mm512_castsi512_ps(_mm512_set1_epi32(static_cast<int>(*a)));
  }
  static NEOX_INLINE F load(const Word* b) { return _mm512_castsi512_ps(_mm512_loadu_si512(b)); }
  static NEOX_INLINE F multiply_add(F acc, F a, F b) {
    return _mm512_dpbf16_ps(acc, (__m512bh)a, (__m512bh)b);
  }
  static NEOX_INLINE void store_words(Word* to, const F* rows) {
    // Columns of row 0 in the low half of the words, of row 1 in the high half.
    const __m512i both = (__m512i)_mm512_cvtne2ps_pbh(rows[1], rows[0]);
    const __m512i order =
        _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                         21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    _mm512_storeu_si512(to, _mm512_permutexvar_epi16(order, both));
  }
  /// 32 neighbours of one row as 16 words.
  static NEOX_INLINE void store_row(Word* to, F left, F right) {
    _mm512_storeu_si512(to, (__m512i)_mm512_cvtne2ps_pbh(right, left));
  }

  static NEOX_INLINE __m512i load_pairs(const bf16* p, std::int64_t n) {
    if (n >= 2 * kLanes) return _mm512_loadu_si512(p);
    const auto mask =
        static_cast<__mmask32>((std::uint64_t{1} << std::max<std::int64_t>(n, 0)) - 1);
    return _mm512_maskz_loadu_epi16(mask, p);
  }
  static NEOX_INLINE F load_row(const bf16* row, std::int64_t n) {
    return _mm512_castsi512_ps(load_pairs(row, n));
  }

  static void pack_rows(const bf16* from, std::int64_t stride, std::int64_t n, std::int64_t rows,
                        std::int64_t dim, Word* to, std::int64_t ld) {
    for (std::int64_t r = 0; r < n; ++r) {
      for (std::int64_t w = 0; w < ld; w += kLanes) {
        _mm512_storeu_si512(to + r * ld + w, load_pairs(from + r * stride + 2 * w, dim - 2 * w));
      }
    }
    std::fill(to + n * ld, to + std::max(n, rows) * ld, Word{0});
  }
  static void pack_pairs(const bf16* from, std::int64_t stride, std::int64_t n, std::int64_t rows,
                         std::int64_t dim, Word* to, std::int64_t ld) {
    const __m512i low = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40,
                                         8, 39, 7, 38, 6, 37, 5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
    const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
    for (std::int64_t r = 0; r < rows; r += 2) {
      for (std::int64_t d = 0; d < ld; d += 2 * kLanes) {
        const __m512i a =
            r < n ? load_pairs(from + r * stride + d, dim - d) : _mm512_setzero_si512();
        const __m512i b =
            r + 1 < n ? load_pairs(from + (r + 1) * stride + d, dim - d) : _mm512_setzero_si512();
        Word* at = to + r / 2 * ld + d;
        _mm512_storeu_si512(at, _mm512_permutex2var_epi16(a, low, b));
        if (d + kLanes < ld) {
          _mm512_storeu_si512(at + kLanes, _mm512_permutex2var_epi16(a, high, b));
        }
      }
    }
  }
  static void pack_transposed(const bf16* from, std::int64_t stride, std::int64_t n,
                              std::int64_t dim, Word* to, std::int64_t ld) {
    for (std::int64_t r = 0; r < n; r += kLanes) {
      for (std::int64_t w = 0; 2 * w < dim; w += kLanes) {
        F v[kLanes];
#pragma GCC unroll 16
        for (std::int64_t i = 0; i < kLanes; ++i) {
          v[i] = _mm512_castsi512_ps(r + i < n
                                         ? load_pairs(from + (r + i) * stride + 2 * w, dim - 2 * w)
                                         : _mm512_setzero_si512());
        }
        simd::transpose(v);
#pragma GCC unroll 16
        for (std::int64_t i = 0; i < kLanes; ++i) {
          _mm512_storeu_ps(to + (w + i) * ld + r, v[i]);
        }
      }
    }
  }
};
#endif

/// Where word (row r, step k) of a left operand lies: a[r * ld + k] or a[k * ld + r].
enum class Left { rows, columns };

/// acc[R][V] += left rows [R] times right columns [16 V], over `steps` words.
template <class P, int R, int V, Left kLeft>
NEOX_INLINE void multiply(typename P::F (&acc)[R][V], const typename P::Word* a, std::int64_t lda,
                          const typename P::Word* b, std::int64_t ldb, std::int64_t steps) {
  for (std::int64_t k = 0; k < steps; ++k) {
    typename P::F right[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) right[v] = P::load(b + k * ldb + v * kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const auto left = P::broadcast(kLeft == Left::rows ? a + r * lda + k : a + k * lda + r);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) acc[r][v] = P::multiply_add(acc[r][v], left, right[v]);
    }
  }
}

/// c = product, c += product, or c[r] = c[r] * scale[r] + product.
enum class Into { overwrite, add, rescale };

template <class P, int V, Left kLeft, Into kInto>
__attribute__((noinline)) void multiply_tile(const typename P::Word* a, std::int64_t lda,
                                             const typename P::Word* b, std::int64_t ldb,
                                             std::int64_t steps, float* c, std::int64_t ldc,
                                             const float* scale) {
  using S = typename P::Simd;
  constexpr int kRows = kTileRows<S>;
  typename P::F acc[kRows][V];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) acc[r][v] = simd::Floats{};
  }
  multiply<P, kRows, V, kLeft>(acc, a, lda, b, ldb, steps);
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      float* at = c + r * ldc + v * kLanes;
      if constexpr (kInto == Into::add) {
        acc[r][v] = acc[r][v] + S::load(at);
      } else if constexpr (kInto == Into::rescale) {
        acc[r][v] = S::multiply_add(S::load(at), simd::broadcast(scale[r]), acc[r][v]);
      }
      S::store(at, acc[r][v]);
    }
  }
}

/// Words [first, last) of the contraction that a tile needs; empty: the tile is skipped.
struct Steps {
  std::int64_t first = 0;
  std::int64_t last = 0;
};

/// c [rows][16 vectors] (kInto) a . b, in tiles; `steps(r, v, width)` gives the contraction of the
/// tile at row r, vectors [v, v + width).
template <class P, Left kLeft, Into kInto, class StepsOf>
void multiply_block(std::int64_t rows, std::int64_t vectors, const typename P::Word* a,
                    std::int64_t lda, const typename P::Word* b, std::int64_t ldb, float* c,
                    std::int64_t ldc, const float* scale, StepsOf steps) {
  constexpr int kMost = kTileVectors<typename P::Simd>;
  for (std::int64_t v = 0; v < vectors;) {
    const std::int64_t left = vectors - v;
    // 4 vectors as 2 + 2: two tiles of 3 + 1 would leave the second one short of work.
    const std::int64_t width = left == 4 ? std::min(2, kMost) : std::min<std::int64_t>(left, kMost);
    for (std::int64_t r = 0; r < rows; r += kTileRows<typename P::Simd>) {
      const Steps s = steps(r, v, width);
      if (s.first >= s.last) continue;
      const auto* left_at = a + (kLeft == Left::rows ? r * lda + s.first : s.first * lda + r);
      const auto* right_at = b + s.first * ldb + v * kLanes;
      float* to = c + r * ldc + v * kLanes;
      const float* by = scale == nullptr ? nullptr : scale + r;
      const auto run = [&]<int kWidth>() {
        multiply_tile<P, kWidth, kLeft, kInto>(left_at, lda, right_at, ldb, s.last - s.first, to,
                                               ldc, by);
      };
      if constexpr (kMost >= 3) {
        if (width == 3) run.template operator()<3>();
      }
      if constexpr (kMost >= 2) {
        if (width == 2) run.template operator()<2>();
      }
      if (width == 1) run.template operator()<1>();
    }
    v += width;
  }
}

}  // namespace neox::cpu
