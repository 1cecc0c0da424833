#pragma once

#include "core/tensor/tensor.h"

namespace neox {

class EmbeddingOps {
 public:
  virtual ~EmbeddingOps() = default;

  /// y[rows, h] = table[ids[r]] (+ position_table[positions[r]]). ids, positions: i32 [rows];
  /// positions and position_table are both empty or both given; tables, y: T. Ids are trusted: the
  /// loader checks them.
  virtual void embedding(Stream& stream, ConstTensor ids, ConstTensor table, ConstTensor positions,
                         ConstTensor position_table, Tensor y) const = 0;

  /// dtable[ids[r]] += dy[r]; deterministic. dy: T; dtable [V, h]: f32, always accumulated into.
  /// Also serves position tables.
  virtual void embedding_backward(Stream& stream, ConstTensor ids, ConstTensor dy,
                                  Tensor dtable) const = 0;
};

}  // namespace neox
