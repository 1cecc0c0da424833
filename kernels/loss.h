#pragma once

#include "core/tensor/tensor.h"

namespace neox {

class LossOps {
 public:
  virtual ~LossOps() = default;

  /// Softmax cross-entropy and its gradient in one pass over a chunk of logits.
  /// logits [rows, V]: f32 or T; labels i32 [rows], read only where weights[r] != 0; weights f32
  /// [rows]. losses f32 [rows] = logsumexp - logit[label] (0 where weights[r] == 0; unweighted
  /// otherwise). dlogits [rows, V] = (softmax - onehot) weights[r]: f32 or T; empty for evaluation;
  /// may share memory with logits when the dtypes agree. Columns >= valid_vocab are padding: -inf,
  /// gradient 0.
  virtual void cross_entropy(Stream& stream, ConstTensor logits, ConstTensor labels,
                             ConstTensor weights, std::int64_t valid_vocab, Tensor losses,
                             Tensor dlogits) const = 0;

  // The same over a vocabulary cut by columns, in two calls with one exchange of 16 bytes a row
  // between them. Every rank holds the columns [first_column, first_column + columns) of the whole
  // logits; the first valid_columns of them (perhaps none) are vocabulary, the rest is padding.

  /// Statistics of the columns held here. logits [rows, columns]; labels (whole-vocabulary ids) and
  /// weights as above. stats f64 [rows, 2] = {logsumexp of the valid columns, -inf when there is
  /// none; logit[label] when the label is one of them, else 0}; {0, 0} where weights[r] == 0.
  virtual void cross_entropy_partial(Stream& stream, ConstTensor logits, ConstTensor labels,
                                     ConstTensor weights, std::int64_t first_column,
                                     std::int64_t valid_columns, Tensor stats) const = 0;

  /// Losses of the whole rows, and the gradient of the columns held here. parts f64 [t, rows, 2]:
  /// the stats of all t ranks; they are combined in this order, so all ranks get the same bits.
  /// losses f32 [rows] and dlogits [rows, columns] as cross_entropy's; with t = 1 they equal
  /// cross_entropy's bit for bit.
  virtual void cross_entropy_combine(Stream& stream, ConstTensor logits, ConstTensor labels,
                                     ConstTensor weights, std::int64_t first_column,
                                     std::int64_t valid_columns, ConstTensor parts, Tensor losses,
                                     Tensor dlogits) const = 0;
};

}  // namespace neox
