#pragma once
// What kernels/cuda/linear.cpp asks of column_sums.cu, where cuBLASLt has no epilogue for it. Plain
// types only. The caller checks cudaGetLastError().

#include <cstddef>
#include <cstdint>

#include "core/base/dtype.h"
#include "kernels/cuda/kernel_launch.h"

namespace neox::cuda {

/// y[r, c] = vector[c], converted.
void broadcast_rows(const Launch&, DType vector_type, const void* vector, DType y_type, void* y,
                    std::int64_t rows, std::int64_t width);

/// Bytes of scratch memory that column_sums needs.
std::size_t column_sums_scratch(std::int64_t rows, std::int64_t width);
/// sums[c] (+)= sum over r of x[r, c], in f32. Groups of rows are summed, then groups of groups:
/// the order of additions depends on `rows` alone, and errors grow with the logarithm of it.
void column_sums(const Launch&, DType x_type, const void* x, std::int64_t rows, std::int64_t width,
                 bool accumulate, float* sums, void* scratch);

/// sums[n] (+)= from[n], in f32.
void collect_sums(const Launch&, const float* from, float* sums, std::int64_t n, bool accumulate);

}  // namespace neox::cuda
