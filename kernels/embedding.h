#pragma once

#include "core/tensor/tensor.h"

namespace neox {

class EmbeddingOps {
 public:
  virtual ~EmbeddingOps() = default;

  /// y[rows, h] = table[ids[r] - first_id] (+ position_table[positions[r]]). ids, positions: i32
  /// [rows]; positions and position_table are both empty or both given; tables, y: T.
  /// `table` [n, h] holds the ids [first_id, first_id + n) of the vocabulary: an id outside adds 0,
  /// so that the sum of y over the ranks of a tensor group is the whole embedding when one of them
  /// gives the positions. With the whole vocabulary in one table (first_id = 0) every id is inside:
  /// the loader checks them. Positions are trusted.
  virtual void embedding(Stream& stream, ConstTensor ids, ConstTensor table, std::int64_t first_id,
                         ConstTensor positions, ConstTensor position_table, Tensor y) const = 0;

  /// dtable[ids[r] - first_id] += dy[r]; deterministic. dy: T; dtable [n, h]: f32, always
  /// accumulated into; ids outside [first_id, first_id + n) add nothing. Also serves position
  /// tables, with first_id = 0.
  virtual void embedding_backward(Stream& stream, ConstTensor ids, ConstTensor dy,
                                  std::int64_t first_id, Tensor dtable) const = 0;
};

}  // namespace neox
