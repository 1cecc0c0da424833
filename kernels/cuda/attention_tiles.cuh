#pragma once
// Tiles of heads in shared memory, and their products on tensor cores.
//
// A tile is rows of queries or keys by channels, the channels padded with zeros to kWidth. Its
// elements are 16-bit: f32 is held as the sum of three bf16 planes, x = x0 + x1 + x2 (8 + 8 + 8
// bits of mantissa), and a product of f32 tiles is six products of planes; what is left out is
// smaller than f32's own rounding. Rows lie 16 bytes more than their length apart, so that the
// eight rows of a matrix that a warp loads are in different banks.

#include "kernels/cuda/attention_scores.cuh"
#include "kernels/cuda/tensor_core.cuh"
#include "kernels/cuda/vectors.cuh"

namespace neox::cuda {

/// The 16-bit planes of an element type.
template <class T>
struct Planes {
  using Half = T;
  static constexpr int kCount = 1;
};
template <>
struct Planes<float> {
  using Half = bf16;
  static constexpr int kCount = 3;
};

/// x = sum of part[i].
NEOX_HOST_DEVICE inline void split(float x, bf16 (&part)[3]) {
  NEOX_UNROLL
  for (int i = 0; i < 3; ++i) {
    part[i] = from_float<bf16>(x);
    x -= to_float(part[i]);
  }
}
template <class T>
NEOX_HOST_DEVICE inline void split(float x, T (&part)[1]) {
  part[0] = from_float<T>(x);
}

template <class T>
NEOX_HOST_DEVICE inline std::uint32_t pair_of(T low, T high) {
  return low.bits | static_cast<std::uint32_t>(high.bits) << 16;
}

/// Rows of one head in global memory.
template <class T>
struct HeadRows {
  T* first;
  std::int64_t stride;
  int count;     ///< rows that exist
  int width;     ///< channels
  bool vectors;  ///< every row starts at 16 bytes and is a whole number of them
};

/// HeadsAt, and whether rows may be moved 16 bytes at a time.
template <class T>
struct HeadMemory {
  T* data;
  std::int64_t batch_stride, row_stride, head_stride;
  bool vectors;

  template <class Memory>
  HeadMemory(const HeadsAt<Memory>& at, std::int64_t width)
      : data(static_cast<T*>(at.data)),
        batch_stride(at.batch_stride),
        row_stride(at.row_stride),
        head_stride(at.head_stride),
        vectors(reinterpret_cast<std::uintptr_t>(at.data) % 16 == 0 &&
                ((at.batch_stride | at.row_stride | at.head_stride | width) % kVector<T>) == 0) {}

  /// Rows from `row` on of a head that has `length` rows.
  NEOX_HOST_DEVICE HeadRows<T> rows(int sample, int head, int row, int length, int width) const {
    return {data + sample * batch_stride + row * row_stride + head * head_stride, row_stride,
            length - row, width, vectors};
  }
};

/// kRows by kWidth elements of T at the start of some shared memory.
template <class T, int kRows, int kWidth>
struct Tile {
  using Half = typename Planes<T>::Half;
  static constexpr int kPlanes = Planes<T>::kCount;
  static constexpr int kStride = kWidth + 8;
  static constexpr int kPlane = kRows * kStride;
  static constexpr std::size_t kBytes = std::size_t{kPlanes} * kPlane * sizeof(Half);
  static_assert(kRows % 16 == 0 && kWidth % 16 == 0);

  Half* memory;
  NEOX_HOST_DEVICE Half* at(int plane, int row, int column) const {
    return memory + plane * kPlane + row * kStride + column;
  }
};

/// Row and column where the n-th chunk of a tile begins.
template <class T, int kWidth>
struct Chunk {
  static constexpr int kLength = kVector<T>;
  int row, column;
  NEOX_HOST_DEVICE explicit Chunk(int n)
      : row(n / (kWidth / kLength)), column(n % (kWidth / kLength) * kLength) {}
};

/// Writes a chunk into the planes of a tile.
template <class T, int kRows, int kWidth>
NEOX_HOST_DEVICE inline void store_chunk(const float (&values)[kVector<T>], int row, int column,
                                         const Tile<T, kRows, kWidth>& to) {
  constexpr int kN = kVector<T>, kPlanes = Planes<T>::kCount;
  using Half = typename Planes<T>::Half;
  Pack<Half, kN> pack[kPlanes];
  NEOX_UNROLL
  for (int i = 0; i < kN; ++i) {
    Half part[kPlanes];
    split(values[i], part);
    NEOX_UNROLL
    for (int plane = 0; plane < kPlanes; ++plane) pack[plane].item[i] = part[plane];
  }
  NEOX_UNROLL
  for (int plane = 0; plane < kPlanes; ++plane) {
    *reinterpret_cast<Pack<Half, kN>*>(to.at(plane, row, column)) = pack[plane];
  }
}

/// Starts to fill a tile by all threads of the block: rows behind `from.count` and channels behind
/// `from.width` become 0. Rows that hold 16-bit elements in whole vectors arrive with the next
/// group of copies, all others at once.
template <class T, int kRows, int kWidth, int kThreads>
NEOX_HOST_DEVICE inline void load_tile(const Block& block, const HeadRows<const T>& from,
                                       const Tile<T, kRows, kWidth>& to) {
  constexpr int kN = kVector<T>, kChunks = kRows * kWidth / kN;
  constexpr int kUnroll = Planes<T>::kCount == 1 ? 4 : 2;
  static_assert(kChunks % kThreads == 0);
  if (from.vectors) {
    NEOX_UNROLL_BY(kUnroll)
    for (int n = 0; n < kChunks; n += kThreads) {
      const Chunk<T, kWidth> at(n + block.thread());
      const bool inside = at.row < from.count && at.column < from.width;
      const T* source = inside ? from.first + at.row * from.stride + at.column : from.first;
      if constexpr (Planes<T>::kCount == 1) {
        copy_async(block, to.at(0, at.row, at.column), source, inside ? 16 : 0);
      } else {
        float values[kN] = {};
        if (inside) load<kN>(source, values);
        store_chunk(values, at.row, at.column, to);
      }
    }
    return;
  }
  NEOX_UNROLL_BY(1)
  for (int n = 0; n < kChunks; n += kThreads) {
    const Chunk<T, kWidth> at(n + block.thread());
    const T* source = from.first + at.row * from.stride + at.column;
    float values[kN] = {};
    NEOX_UNROLL
    for (int i = 0; i < kN; ++i) {
      if (at.row < from.count && at.column + i < from.width) values[i] = to_float(source[i]);
    }
    store_chunk(values, at.row, at.column, to);
  }
}

/// c += a b of every pair of planes that matters, small ones first.
template <class T>
NEOX_HOST_DEVICE inline void mma_planes(const Block& block, float (&c)[4],
                                        const std::uint32_t (&a)[Planes<T>::kCount][4],
                                        const std::uint32_t (&b)[Planes<T>::kCount][2]) {
  constexpr int kPlanes = Planes<T>::kCount;
  NEOX_UNROLL
  for (int sum = kPlanes - 1; sum >= 0; --sum) {
    NEOX_UNROLL
    for (int i = 0; i <= sum; ++i) mma<typename Planes<T>::Half>(block, c, a[i], b[sum - i]);
  }
}

/// The fragments of B [16, 16], as two of 8 columns, for steps at `k` of the sum. kByRows: the
/// tile's rows are the steps, else the columns of B.
template <class T, bool kByRows, int kRows, int kWidth>
NEOX_HOST_DEVICE inline void load_b(const Block& block, const Tile<T, kRows, kWidth>& tile, int k,
                                    int n, std::uint32_t (&b)[2][Planes<T>::kCount][2]) {
  const int matrix = block.lane() / 8, within = block.lane() % 8;
  const int k_half = matrix % 2 * 8, n_half = matrix / 2 * 8;
  NEOX_UNROLL
  for (int plane = 0; plane < Planes<T>::kCount; ++plane) {
    std::uint32_t to[4];
    if constexpr (kByRows) {
      load_matrices<true>(block, to, tile.at(plane, k + k_half + within, n + n_half));
    } else {
      load_matrices(block, to, tile.at(plane, n + n_half + within, k + k_half));
    }
    NEOX_UNROLL
    for (int i = 0; i < 4; ++i) b[i / 2][plane][i % 2] = to[i];
  }
}

/// c[m][n] += a b^T: 16 kM rows of `a` from `row` on, by the first 8 kN rows of `b`; sums over
/// kWidth channels.
template <class T, int kM, int kN, int kRowsA, int kRowsB, int kWidth>
NEOX_HOST_DEVICE inline void multiply_rows(const Block& block, const Tile<T, kRowsA, kWidth>& a,
                                           int row, const Tile<T, kRowsB, kWidth>& b,
                                           float (&c)[kM][kN][4]) {
  constexpr int kPlanes = Planes<T>::kCount;
  constexpr int kUnroll = kPlanes == 1 ? 2 : 1;
  NEOX_UNROLL_BY(kUnroll)
  for (int k = 0; k < kWidth; k += 16) {
    std::uint32_t left[kM][kPlanes][4];
    NEOX_UNROLL
    for (int m = 0; m < kM; ++m) {
      NEOX_UNROLL
      for (int plane = 0; plane < kPlanes; ++plane) {
        load_matrices(block, left[m][plane],
                      a.at(plane, row + 16 * m + block.lane() % 16, k + block.lane() / 16 * 8));
      }
    }
    NEOX_UNROLL
    for (int n = 0; n < kN; n += 2) {
      std::uint32_t right[2][kPlanes][2];
      load_b<T, false>(block, b, k, 8 * n, right);
      NEOX_UNROLL
      for (int m = 0; m < kM; ++m) {
        mma_planes<T>(block, c[m][n], left[m], right[0]);
        mma_planes<T>(block, c[m][n + 1], left[m], right[1]);
      }
    }
  }
}

/// c[m][n] += p b: p [16 kM, 8 kK] is an accumulator of multiply_rows, rounded to T's planes, and b
/// the first 8 kK rows of a tile.
template <class T, int kM, int kK, int kN, int kRows, int kWidth>
NEOX_HOST_DEVICE inline void multiply_accumulator(const Block& block, const float (&p)[kM][kK][4],
                                                  const Tile<T, kRows, kWidth>& b,
                                                  float (&c)[kM][kN][4]) {
  static_assert(kN * 8 == kWidth && kK * 8 == kRows);
  constexpr int kPlanes = Planes<T>::kCount;
  NEOX_UNROLL
  for (int k = 0; k < kK; k += 2) {
    std::uint32_t left[kM][kPlanes][4];
    NEOX_UNROLL
    for (int m = 0; m < kM; ++m) {
      NEOX_UNROLL
      for (int i = 0; i < 4; ++i) {
        typename Planes<T>::Half low[kPlanes], high[kPlanes];
        split(p[m][k + i / 2][i % 2 * 2], low);
        split(p[m][k + i / 2][i % 2 * 2 + 1], high);
        NEOX_UNROLL
        for (int plane = 0; plane < kPlanes; ++plane) {
          left[m][plane][i] = pair_of(low[plane], high[plane]);
        }
      }
    }
    NEOX_UNROLL
    for (int n = 0; n < kN; n += 2) {
      std::uint32_t right[2][kPlanes][2];
      load_b<T, true>(block, b, 8 * k, 8 * n, right);
      NEOX_UNROLL
      for (int m = 0; m < kM; ++m) {
        mma_planes<T>(block, c[m][n], left[m], right[0]);
        mma_planes<T>(block, c[m][n + 1], left[m], right[1]);
      }
    }
  }
}

/// Writes a warp's accumulator times `scale` of each of its rows (scale[m][0] of row group, [1] of
/// row group + 8) to global memory, through its own rows [row, row + 16 kM) of a tile that nobody
/// reads any more.
template <class T, int kM, int kN, int kRows, int kWidth>
NEOX_HOST_DEVICE inline void store_rows(const Block& block, const float (&c)[kM][kN][4],
                                        const float (&scale)[kM][2],
                                        const Tile<T, kRows, kWidth>& through, int row,
                                        const HeadRows<T>& to) {
  constexpr int kStride = Tile<T, kRows, kWidth>::kStride, kV = kVector<T>;
  static_assert(kRows * kStride * sizeof(T) <= Tile<T, kRows, kWidth>::kBytes);
  T* memory = reinterpret_cast<T*>(through.memory) + row * kStride;
  const int group = block.lane() / 4, member = block.lane() % 4;
  NEOX_UNROLL
  for (int m = 0; m < kM; ++m) {
    NEOX_UNROLL
    for (int n = 0; n < kN; ++n) {
      NEOX_UNROLL
      for (int half = 0; half < 2; ++half) {
        const float s = scale[m][half];
        const float values[2] = {c[m][n][2 * half] * s, c[m][n][2 * half + 1] * s};
        store<2>(memory + (16 * m + group + 8 * half) * kStride + 8 * n + 2 * member, values);
      }
    }
  }
  block.sync_warp();
  for (int chunk = block.lane(); chunk < 16 * kM * (kWidth / kV); chunk += kWarp) {
    const int r = chunk / (kWidth / kV), column = chunk % (kWidth / kV) * kV;
    if (row + r >= to.count || column >= to.width) continue;
    const T* from = memory + r * kStride + column;
    T* at = to.first + (row + r) * to.stride + column;
    if (to.vectors) {
      *reinterpret_cast<Pack<T, kV>*>(at) = *reinterpret_cast<const Pack<T, kV>*>(from);
    } else {
      for (int i = 0; i < kV && column + i < to.width; ++i) at[i] = from[i];
    }
  }
}

}  // namespace neox::cuda
