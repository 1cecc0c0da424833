#pragma once
// Rows of a norm: who of a block holds which part of them.

#include <algorithm>

#include "kernels/cuda/block.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/vectors.cuh"

namespace neox::cuda {

/// 16 bytes of a row as they lie in memory.
template <class T>
using RowPart = Pack<T, kVector<T>>;

template <class T>
NEOX_HOST_DEVICE inline void unpack(const RowPart<T>& part, float (&to)[kVector<T>]) {
  NEOX_UNROLL
  for (int i = 0; i < kVector<T>; ++i) to[i] = to_float(part.item[i]);
}

/// Threads of a block that has `steps` things to do: whole warps, at most `most`.
inline int threads_for(std::int64_t steps, int most) {
  const std::int64_t whole = (steps + kWarp - 1) / kWarp * kWarp;
  return static_cast<int>(std::clamp<std::int64_t>(whole, kWarp, most));
}

/// A block works on `teams` rows at a time, `size` threads on each; size is a multiple of 32.
struct Teams {
  int size, teams;
  int threads() const { return size * teams; }
};

/// Teams for rows of `parts` parts, of which a thread holds at most `held`; blocks of about
/// `threads` threads.
inline Teams teams_for(std::int64_t parts, int held, int threads) {
  const std::int64_t members = std::max<std::int64_t>(1, (parts + held - 1) / held);
  const int size = static_cast<int>((members + kWarp - 1) / kWarp * kWarp);
  return {size, std::max(1, threads / size)};
}

/// Shared memory of team_sum for N values.
template <int N>
constexpr std::size_t team_sum_bytes() {
  return sizeof(float) * 2 * N * kWarp;
}

/// values[i] over the threads of each team, the same bits in all of them. Every thread of the block
/// calls it, with `turn` counting the calls: so one barrier is enough.
template <int N>
NEOX_HOST_DEVICE inline void team_sum(const Block& block, float (&values)[N], int team_size,
                                      int turn) {
  NEOX_UNROLL
  for (int i = 0; i < N; ++i) values[i] = block.sum_warp(values[i]);
  if (team_size == kWarp) return;
  float* partial = block.shared<float>() + turn % 2 * N * kWarp;
  if (block.lane() == 0) {
    NEOX_UNROLL
    for (int i = 0; i < N; ++i) partial[i * kWarp + block.warp()] = values[i];
  }
  block.sync();
  const int warps = team_size / kWarp, first = block.warp() / warps * warps;
  NEOX_UNROLL
  for (int i = 0; i < N; ++i) {
    values[i] = 0.0f;
    for (int k = 0; k < warps; ++k) values[i] += partial[i * kWarp + first + k];
  }
}

}  // namespace neox::cuda
