// Bias and its gradient, where no epilogue of a matrix product computes them.

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/linear_kernels.h"
#include "kernels/cuda/vectors.cuh"

namespace neox::cuda {
namespace {

/// Rows that one thread sums: enough that the partial sums are few beside x, and few enough that a
/// narrow x still fills the GPU.
constexpr std::int64_t kGroup = 32;

std::int64_t groups_of(std::int64_t rows) {
  return (rows + kGroup - 1) / kGroup;
}

template <class From, class To>
struct BroadcastRows {
  const From* vector;
  To* y;
  std::int64_t width;
  template <int N>
  NEOX_HOST_DEVICE void run(std::int64_t row, std::int64_t column) const {
    float v[N];
    load<N>(vector + column, v);
    store<N>(y + row * width + column, v);
  }
};

/// sums[g, c] (+)= sum over the rows of group g of x[r, c].
template <class T, bool Accumulate>
struct SumGroups {
  const T* x;
  float* sums;
  std::int64_t rows;
  std::int64_t width;
  template <int N>
  NEOX_HOST_DEVICE void run(std::int64_t group, std::int64_t column) const {
    const std::int64_t begin = group * kGroup;
    const std::int64_t end = begin + kGroup < rows ? begin + kGroup : rows;
    float sum[N] = {};
#ifdef __CUDA_ARCH__
#pragma unroll 4
#endif
    for (std::int64_t row = begin; row < end; ++row) {
      float v[N];
      load<N>(x + row * width + column, v);
      for (int i = 0; i < N; ++i) sum[i] += v[i];
    }
    float* to = sums + group * width + column;
    if constexpr (Accumulate) {
      float v[N];
      load<N>(to, v);
      for (int i = 0; i < N; ++i) sum[i] += v[i];
    }
    store<N>(to, sum);
  }
};

template <class T>
void sum_groups(const Launch& launch, const T* x, std::int64_t rows, std::int64_t width,
                bool accumulate, float* sums) {
  const Extent extent = row_extent<kVector<T>>(groups_of(rows), width, aligned(x, sums));
  if (accumulate) {
    run<kVector<T>>(launch, SumGroups<T, true>{x, sums, rows, width}, extent);
  } else {
    run<kVector<T>>(launch, SumGroups<T, false>{x, sums, rows, width}, extent);
  }
}

}  // namespace

void broadcast_rows(const Launch& launch, DType vector_type, const void* vector, DType y_type,
                    void* y, std::int64_t rows, std::int64_t width) {
  visit_float(vector_type, [&](auto from) {
    visit_float(y_type, [&](auto to) {
      using From = decltype(from);
      using To = decltype(to);
      constexpr int kN = kVector < From >> kVector<To> ? kVector<From> : kVector<To>;
      const BroadcastRows<From, To> body{static_cast<const From*>(vector), static_cast<To*>(y),
                                         width};
      run<kN>(launch, body, row_extent<kN>(rows, width, aligned(vector, y)));
    });
  });
}

std::size_t column_sums_scratch(std::int64_t rows, std::int64_t width) {
  std::int64_t groups = 0;
  for (std::int64_t n = rows; n > kGroup;) groups += n = groups_of(n);
  return static_cast<std::size_t>(groups * width) * sizeof(float);
}

void column_sums(const Launch& launch, DType x_type, const void* x, std::int64_t rows,
                 std::int64_t width, bool accumulate, float* sums, void* scratch) {
  visit_float(x_type, [&](auto zero) {
    using T = decltype(zero);
    const bool once = rows <= kGroup;
    auto* part = static_cast<float*>(scratch);
    sum_groups(launch, static_cast<const T*>(x), rows, width, once && accumulate,
               once ? sums : part);
    if (once) return;
    for (std::int64_t n = groups_of(rows); n > 1; n = groups_of(n)) {
      const bool last = n <= kGroup;
      float* next = last ? sums : part + n * width;
      sum_groups<float>(launch, part, n, width, last && accumulate, next);
      part = next;
    }
  });
}

void collect_sums(const Launch& launch, const float* from, float* sums, std::int64_t n,
                  bool accumulate) {
  sum_groups(launch, from, 1, n, accumulate, sums);
}

}  // namespace neox::cuda
