#pragma once
// Which part of a model a rank holds: a slice of every layer (tensor parallelism) of some of the
// layers (pipeline parallelism).

#include <cstdint>
#include <vector>

#include "core/config/config.h"

namespace neox {

/// Positions [begin, begin + size) of an axis.
struct AxisRange {
  std::int64_t begin = 0;
  std::int64_t size = 0;
};

/// Part `index` of `parts` of an axis of n: as equal as whole numbers allow.
inline AxisRange axis_part(std::int64_t n, std::int64_t parts, std::int64_t index) {
  const std::int64_t begin = n * index / parts;
  return {begin, n * (index + 1) / parts - begin};
}

/// Consecutive layers that are computed in one go: a pipeline stage, or one of its virtual stages.
struct ModelChunk {
  int first_layer = 0;
  int end_layer = 0;  ///< one past the last
  bool embedding = false;
  bool head = false;  ///< final norm, output layer, loss
};

struct ModelPartition {
  int tensor_rank = 0;
  int tensor_size = 1;
  /// The residual stream's rows [batch*seq] are divided over the tensor ranks (sequence
  /// parallelism, by rows: rank r holds rows [r R/t, (r+1) R/t) of a micro-batch).
  bool rows_sharded = false;
  /// In forward order; empty: the whole model is one chunk.
  std::vector<ModelChunk> chunks{};

  /// This rank's part of an axis that is divided over the tensor ranks.
  AxisRange tensor_part(std::int64_t n) const { return axis_part(n, tensor_size, tensor_rank); }
  /// Positions that the tensor rank with the most of them has.
  std::int64_t largest_tensor_part(std::int64_t n) const {
    return (n + tensor_size - 1) / tensor_size;
  }
};

/// Attention heads of a tensor rank. Query heads are divided evenly. Key/value heads are too, or,
/// when there are fewer of them than ranks, held alike by tensor_size / num_kv_heads neighbours.
struct HeadPartition {
  AxisRange query;
  AxisRange key_value;
  int key_value_holders = 1;  ///< ranks that hold the same key/value heads
};

/// Throws Error naming the numbers when heads can't be divided that way.
HeadPartition partition_heads(const ModelConfig& model, const ModelPartition& partition);

}  // namespace neox
