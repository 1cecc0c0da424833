#pragma once
// Rearranging matrices for the matrix-product kernels. All functions run on all OpenMP threads, and
// their results do not depend on how many there are.

#include <cstdint>

#include "core/base/dtype.h"

namespace neox {

/// The blocked layout of a right-hand side b[k, n], in 32-bit words: one f32, or two bf16 that are
/// neighbours along k (the pairs that the bf16 dot-product instructions take). Blocks of 16 words
/// along k by n_block columns: word (kw, c) is at (c / n_block) * n_stride + (kw / 16) * k_stride +
/// (kw % 16) * n_block + c % n_block.
struct PackedLayout {
  DType dtype = DType::f32;  ///< f32 or bf16
  std::int64_t k = 0, n = 0;
  std::int64_t n_block = 0;                 ///< a multiple of 16
  std::int64_t k_stride = 0, n_stride = 0;  ///< words
};

/// Packs b[k][c] = source[c * ld + k], e.g. a weight [out, in] for y = x W^T. Padding becomes 0.
/// `packed` is aligned to 64 bytes.
void pack_transposed(const void* source, std::int64_t ld, const PackedLayout& layout, void* packed);

/// Packs b[k][c] = source[k * ld + c], e.g. a weight [out, in] for dx = dy W. Padding becomes 0.
/// `packed` is aligned to 64 bytes.
void pack_rows(const void* source, std::int64_t ld, const PackedLayout& layout, void* packed);

/// Leading dimension, in elements, of the transpose of a matrix of `rows` rows: whole blocks of 16
/// words.
std::int64_t transposed_stride(std::int64_t rows, DType dtype);

/// out[c * out_ld + r] = source[r * ld + c] for r < rows, c < cols; zeros in the rest of each row
/// of `out`. dtype: f32 or bf16. Where column_sums is not null, column_sums[c] (+)= sum over r in
/// f32.
void transpose_matrix(const void* source, std::int64_t ld, std::int64_t rows, std::int64_t cols,
                      DType dtype, void* out, std::int64_t out_ld, float* column_sums,
                      bool accumulate_sums);

}  // namespace neox
