#pragma once
// Optimizers that keep a number for each row and one for each column of a matrix, instead of one
// for each element.

#include "core/tensor/tensor.h"
#include "kernels/factored_rules.h"

namespace neox {

/// `part` tells where the elements of grad and main, f32 [n], lie in the whole matrix, whose rows
/// and columns have the numbers `rows` f32 [R] and `columns` f32 [C]. For a vector, which is a part
/// of width 1, columns is empty.
class FactoredOps {
 public:
  virtual ~FactoredOps() = default;

  /// new_rows[r], new_columns[c] become at least the nu (Sm3) of every element of their row or
  /// column; rows and columns are those that nu is computed from. grad_scale: f32 [1].
  virtual void sm3_maxima(Stream& stream, const Sm3& rule, const MatrixPart& part, ConstTensor grad,
                          ConstTensor grad_scale, ConstTensor rows, ConstTensor columns,
                          Tensor new_rows, Tensor new_columns) const = 0;

  /// The elements' step (Sm3). momentum: f32 [n], or empty when there is none; weights: the compute
  /// copy (bf16/f16) that receives the rounded result, or empty.
  virtual void sm3_step(Stream& stream, const Sm3& rule, const MatrixPart& part, ConstTensor grad,
                        ConstTensor grad_scale, ConstTensor rows, ConstTensor columns, Tensor main,
                        Tensor momentum, Tensor weights) const = 0;
};

}  // namespace neox
