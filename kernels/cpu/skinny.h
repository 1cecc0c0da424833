#pragma once
// Products with few rows: generation. Bound by reading the weights, so they are read once, in
// place.

#include "core/tensor/tensor.h"

namespace neox {

constexpr std::int64_t kMaxSkinnyRows = 8;

/// True when skinny_product computes products of this many rows with weights of this type.
bool skinny_supports(std::int64_t rows, DType weights);

/// y[rows, out] = x[rows, in] w[out, in]^T + bias[out]. x: f32; w, bias: T (bias may be empty); y:
/// T or f32. A row's result does not depend on how many rows there are, nor on the number of
/// threads.
void skinny_product(ConstTensor x, ConstTensor w, ConstTensor bias, Tensor y);

}  // namespace neox
