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
};

}  // namespace neox
