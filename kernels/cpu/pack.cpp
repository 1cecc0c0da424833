#include "kernels/cpu/pack.h"

#include <algorithm>
#include <array>

#include "kernels/cpu/simd.h"

namespace neox {
namespace {

using simd::Floats;
using simd::HalfWords;
using simd::Words;
using Tile = Words[16];
constexpr std::int64_t kTile = 16;

template <class V>
V load(const void* from) {
  V v;
  std::memcpy(&v, from, sizeof(V));
  return v;
}

// Packed matrices are written in whole cache lines and read much later: not reading the lines first
// and not keeping them saves more than half of the memory traffic.
inline void store_streaming(std::uint32_t* to, Words v) {
#ifdef NEOX_AVX512
  _mm512_stream_si512(reinterpret_cast<__m512i*>(to), std::bit_cast<__m512i>(v));
#else
  std::memcpy(to, &v, sizeof(v));
#endif
}

// Makes a thread's streaming stores visible to the others.
inline void finish_streaming() {
#ifdef NEOX_AVX512
  _mm_sfence();
#endif
}

// A source matrix seen as words (kw, c), kw counting words along k. Template arguments: elements
// per word, and whether k runs along the rows of the source (a weight [n, k]) or down its columns
// ([k, n]).
template <int kPair, bool kAlongRows>
struct WordSource {
  using Element = std::conditional_t<kPair == 1, std::uint32_t, std::uint16_t>;
  const Element* data;
  std::int64_t ld;
  std::int64_t k, n;

  Element element(std::int64_t row, std::int64_t c) const {
    if (row >= k || c >= n) return 0;
    return kAlongRows ? data[c * ld + row] : data[row * ld + c];
  }
  std::uint32_t word(std::int64_t kw, std::int64_t c) const {
    if constexpr (kPair == 1) {
      return element(kw, c);
    } else {
      return static_cast<std::uint32_t>(element(2 * kw, c)) |
             static_cast<std::uint32_t>(element(2 * kw + 1, c)) << 16;
    }
  }
  // t[i][j] = word(kw + i, c + j) when k runs down the columns; word(kw + j, c + i) when along
  // rows.
  void load_tile(std::int64_t kw, std::int64_t c, Tile& t) const {
    const bool whole = (kw + kTile) * kPair <= k && c + kTile <= n;
    if (!whole) return load_edge(kw, c, t);
#pragma GCC unroll 16
    for (std::int64_t i = 0; i < kTile; ++i) {
      Words& v = t[i];
      if constexpr (kAlongRows) {
        const Element* row = data + (c + i) * ld + kw * kPair;
        __builtin_prefetch(row + 2 * kTile * kPair);
        v = load<Words>(row);
      } else if constexpr (kPair == 1) {
        const Element* row = data + (kw + i) * ld + c;
        __builtin_prefetch(row + kTile * ld);
        v = load<Words>(row);
      } else {
        const Element* row = data + 2 * (kw + i) * ld + c;
        __builtin_prefetch(row + 2 * kTile * ld);
        __builtin_prefetch(row + (2 * kTile + 1) * ld);
        const Words low = __builtin_convertvector(load<HalfWords>(row), Words);
        const Words high = __builtin_convertvector(load<HalfWords>(row + ld), Words);
        v = low | high << 16;
      }
    }
  }
  // The same where the tile reaches over the edge of the matrix: zeros there.
  void load_edge(std::int64_t kw, std::int64_t c, Tile& t) const {
    for (std::int64_t i = 0; i < kTile; ++i) {
      for (std::int64_t j = 0; j < kTile; ++j) {
        t[i][j] = kAlongRows ? word(kw + j, c + i) : word(kw + i, c + j);
      }
    }
  }
};

template <int kPair, bool kAlongRows>
void pack(const void* source, std::int64_t ld, const PackedLayout& layout, void* packed) {
  const WordSource<kPair, kAlongRows> from{
      static_cast<const typename WordSource<kPair, kAlongRows>::Element*>(source), ld, layout.k,
      layout.n};
  auto* to = static_cast<std::uint32_t*>(packed);
  constexpr std::int64_t kRun =
      32;  // tiles along k per unit of work: long runs please the prefetcher
  const std::int64_t k_tiles = (layout.k + kPair * kTile - 1) / (kPair * kTile);
  const std::int64_t runs = (k_tiles + kRun - 1) / kRun;
  const std::int64_t n_blocks = (layout.n + layout.n_block - 1) / layout.n_block;
#pragma omp parallel for collapse(2) schedule(static)
  for (std::int64_t b = 0; b < n_blocks; ++b) {
    for (std::int64_t run = 0; run < runs; ++run) {
      for (std::int64_t kt = run * kRun; kt < std::min(k_tiles, (run + 1) * kRun); ++kt) {
        for (std::int64_t column = 0; column < layout.n_block; column += kTile) {
          Tile t;
          from.load_tile(kt * kTile, b * layout.n_block + column, t);
          if constexpr (kAlongRows) simd::transpose(t);
          std::uint32_t* at = to + b * layout.n_stride + kt * layout.k_stride + column;
          for (const Words& row : t) {
            store_streaming(at, row);
            at += layout.n_block;
          }
        }
      }
      finish_streaming();
    }
  }
}

template <int kPair>
Floats column_sum(const Tile& t) {
  Floats sum{};
  for (const Words& row : t) {
    if constexpr (kPair == 1) {
      sum += std::bit_cast<Floats>(row);
    } else {
      sum += std::bit_cast<Floats>(row << 16) + std::bit_cast<Floats>(row & 0xffff0000u);
    }
  }
  return sum;
}

template <int kPair>
void transpose_words(const WordSource<kPair, false>& from, std::uint32_t* out,
                     std::int64_t out_words, float* sums, bool accumulate) {
  const std::int64_t cols = from.n;
  const std::int64_t k_tiles = (from.k + kPair * kTile - 1) / (kPair * kTile);
  constexpr std::int64_t kPanel = 4;  // tiles side by side: whole cache lines of 16-bit sources
  const std::int64_t panels = (cols + kPanel * kTile - 1) / (kPanel * kTile);
#pragma omp parallel for schedule(static)
  for (std::int64_t panel = 0; panel < panels; ++panel) {
    std::array<Floats, kPanel> totals{};
    for (std::int64_t i = 0; i < kPanel; ++i) {
      const std::int64_t c = (panel * kPanel + i) * kTile;
      if (c >= cols) break;
      Floats& total = totals[static_cast<std::size_t>(i)];
      for (std::int64_t kt = 0; kt < k_tiles; ++kt) {  // 16 sequential streams of stores
        Tile t;
        from.load_tile(kt * kTile, c, t);
        if (sums != nullptr) total += column_sum<kPair>(t);
        simd::transpose(t);
        std::uint32_t* at = out + c * out_words + kt * kTile;
        for (std::int64_t j = 0; j < std::min(kTile, cols - c); ++j) {
          std::memcpy(at + j * out_words, &t[j], sizeof(Words));
        }
      }
    }
    if (sums == nullptr) continue;
    for (std::int64_t c = panel * kPanel * kTile; c < std::min(cols, (panel + 1) * kPanel * kTile);
         ++c) {
      const std::int64_t local = c - panel * kPanel * kTile;
      const float total = totals[static_cast<std::size_t>(local / kTile)][local % kTile];
      sums[c] = accumulate ? sums[c] + total : total;
    }
  }
}

}  // namespace

void pack_transposed(const void* source, std::int64_t ld, const PackedLayout& layout,
                     void* packed) {
  if (layout.dtype == DType::f32) {
    pack<1, true>(source, ld, layout, packed);
  } else {
    pack<2, true>(source, ld, layout, packed);
  }
}

void pack_rows(const void* source, std::int64_t ld, const PackedLayout& layout, void* packed) {
  if (layout.dtype == DType::f32) {
    pack<1, false>(source, ld, layout, packed);
  } else {
    pack<2, false>(source, ld, layout, packed);
  }
}

std::int64_t transposed_stride(std::int64_t rows, DType dtype) {
  const std::int64_t block = dtype == DType::f32 ? kTile : 2 * kTile;
  return (rows + block - 1) / block * block;
}

void transpose_matrix(const void* source, std::int64_t ld, std::int64_t rows, std::int64_t cols,
                      DType dtype, void* out, std::int64_t out_ld, float* column_sums,
                      bool accumulate_sums) {
  auto* words = static_cast<std::uint32_t*>(out);
  if (dtype == DType::f32) {
    transpose_words<1>({static_cast<const std::uint32_t*>(source), ld, rows, cols}, words, out_ld,
                       column_sums, accumulate_sums);
  } else {
    transpose_words<2>({static_cast<const std::uint16_t*>(source), ld, rows, cols}, words,
                       out_ld / 2, column_sums, accumulate_sums);
  }
}

}  // namespace neox
