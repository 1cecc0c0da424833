#pragma once
// Runs a body on every element of a matrix: body.run<N>(row, column) computes N neighbours of a
// row. Threads stride over the grid, so any grid covers any matrix.

#include <algorithm>
#include <cstdint>

#include "kernels/cuda/elementwise_kernels.h"

namespace neox::cuda {

inline constexpr int kThreads = 256;
/// Two full loads of 2048 threads per multiprocessor: later blocks start while earlier ones drain.
inline constexpr std::int64_t kBlocksPerMultiprocessor = 16;

/// [rows, width] elements, of which the first `vectors` * N of each row are handled N at a time.
struct Extent {
  std::int64_t rows;
  std::int64_t width;
  std::int64_t vectors;
};

template <class... Pointers>
bool aligned(Pointers... pointers) {
  return ((reinterpret_cast<std::uintptr_t>(pointers) % 16 == 0) && ...);
}

/// n elements in one row. `aligned`: all operands start at 16-byte boundaries.
template <int N>
Extent flat_extent(std::int64_t n, bool aligned) {
  return {1, n, aligned ? n / N : 0};
}
/// Rows whose starts are `width` elements apart, or a multiple of it.
template <int N>
Extent row_extent(std::int64_t rows, std::int64_t width, bool aligned) {
  return {rows, width, aligned && width % N == 0 ? width / N : 0};
}

/// Threads (x along the row) of a block, and blocks of the grid.
struct GridShape {
  int block_x, block_y, grid_x, grid_y;
};

inline GridShape grid_for(const Extent& extent, std::int64_t steps_per_row, int multiprocessors) {
  const auto divide_up = [](std::int64_t a, std::int64_t b) { return (a + b - 1) / b; };
  const std::int64_t most = kBlocksPerMultiprocessor * multiprocessors;
  const std::int64_t block_x = std::min<std::int64_t>(kThreads, divide_up(steps_per_row, 32) * 32);
  const std::int64_t block_y = extent.rows == 1 ? 1 : kThreads / block_x;
  const std::int64_t grid_x = std::min(most, divide_up(steps_per_row, block_x));
  const std::int64_t rows_at_once =
      std::min<std::int64_t>(65535, std::max<std::int64_t>(1, most / grid_x));
  const std::int64_t grid_y = std::min(rows_at_once, divide_up(extent.rows, block_y));
  return {static_cast<int>(block_x), static_cast<int>(block_y), static_cast<int>(grid_x),
          static_cast<int>(grid_y)};
}

/// What one thread does: rows y, y + y_step, ...; in each, vectors x, x + x_step, ... and then the
/// single elements behind the vectors.
template <int N, class Body>
NEOX_HOST_DEVICE inline void run_thread(const Body& body, const Extent& extent, std::int64_t x,
                                        std::int64_t x_step, std::int64_t y, std::int64_t y_step) {
  for (std::int64_t row = y; row < extent.rows; row += y_step) {
    for (std::int64_t v = x; v < extent.vectors; v += x_step) body.template run<N>(row, v * N);
    for (std::int64_t column = extent.vectors * N + x; column < extent.width; column += x_step) {
      body.template run<1>(row, column);
    }
  }
}

template <int N, class Body>
__global__ void __launch_bounds__(kThreads) run_kernel(const Body body, const Extent extent) {
  run_thread<N>(body, extent, std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x,
                std::int64_t{gridDim.x} * blockDim.x,
                std::int64_t{blockIdx.y} * blockDim.y + threadIdx.y,
                std::int64_t{gridDim.y} * blockDim.y);
}

template <int N, class Body>
void run(const Launch& launch, const Body& body, const Extent& extent) {
  if (extent.rows <= 0 || extent.width <= 0) return;  // an empty grid would be an error
  const std::int64_t steps = std::max(extent.vectors, extent.width - extent.vectors * N);
  const GridShape shape = grid_for(extent, steps, launch.multiprocessors);
  if (!launch.on_host) {
    const dim3 grid(static_cast<unsigned>(shape.grid_x), static_cast<unsigned>(shape.grid_y));
    const dim3 block(static_cast<unsigned>(shape.block_x), static_cast<unsigned>(shape.block_y));
    run_kernel<N><<<grid, block, 0, static_cast<cudaStream_t>(launch.stream)>>>(body, extent);
    return;
  }
  const std::int64_t x_step = std::int64_t{shape.grid_x} * shape.block_x;
  const std::int64_t y_step = std::int64_t{shape.grid_y} * shape.block_y;
  for (std::int64_t y = 0; y < y_step; ++y) {
    for (std::int64_t x = 0; x < x_step; ++x) run_thread<N>(body, extent, x, x_step, y, y_step);
  }
}

}  // namespace neox::cuda
