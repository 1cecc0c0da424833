#pragma once
// Kernels that test kernels/cuda/block.cuh and tensor_core.cuh. Plain types only.

#include <cstddef>

#include "kernels/cuda/kernel_launch.h"

namespace neox::testing {

enum class BlockTest {
  // One block: out[i] = in[threads - 1 - i], through shared memory.
  reverse,
  reverse_without_sync,
  reverse_early_overwrite,  ///< twice, but nobody waits before memory is written again
  reverse_in_large_memory,  ///< behind 64 KB
  // out[i] = in[i ^ 1], through shared memory.
  swap_neighbours,
  swap_neighbours_without_sync,
  // out[i] = in[i], twice that for every fourth i; with asynchronous copies.
  copy_async,
  copy_async_without_wait,
  // Three blocks: out [3, threads, 8] = sum, sum as f64, max, two sums at once, then three numbers
  // of the thread: warp, lane, ballot of in > 0.
  reductions,
  // out [threads, 8]: shuffle, xor, down, up of f32; the same of f64 and whole numbers.
  shuffles,
  // What must not happen.
  half_the_warps_leave,
  half_the_lanes_leave,
  two_barriers,
  barrier_and_shuffle,
  write_behind_shared_memory,
};

/// in, out: f32 on the device.
void run_block_test(const cuda::Launch&, BlockTest, int threads, const float* in, float* out);

/// d f32 [16, 8] = A B + c for one warp; A [16, 16] and B [16, 8] in a 16-bit type. With `loads`,
/// the fragments come out of shared memory by ldmatrix.
void run_mma_test(const cuda::Launch&, bool is_bf16, bool loads, const void* a, const void* b,
                  const float* c, float* d);

}  // namespace neox::testing
