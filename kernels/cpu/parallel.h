#pragma once
// Loops shared by the CPU kernels. Work is cut the same way whatever the number of threads.

#include <algorithm>
#include <cstdint>

namespace neox {

/// Below this many elements one thread is faster than waking the others.
inline constexpr std::int64_t kParallelElements = 1 << 14;

/// f(row) for all rows, each `width` elements of work.
template <class F>
void parallel_rows(std::int64_t rows, std::int64_t width, F&& f) {
  [[maybe_unused]] const bool parallel = rows > 1 && rows * width >= kParallelElements;
#pragma omp parallel for schedule(static) if (parallel)
  for (std::int64_t row = 0; row < rows; ++row) f(row);
}

/// f(begin, end) for consecutive ranges of [0, n).
template <class F>
void parallel_ranges(std::int64_t n, F&& f) {
  constexpr std::int64_t kRange = 4096;
  parallel_rows((n + kRange - 1) / kRange, kRange,
                [&](std::int64_t i) { f(i * kRange, std::min(n, (i + 1) * kRange)); });
}

}  // namespace neox
