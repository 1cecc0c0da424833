#pragma once
// Shard: which part of which global tensor a rank holds. Initialisation, checkpoints, import and
// resharding all speak in shards; nothing anywhere knows "the file of rank 17".

#include <array>
#include <cstdint>
#include <optional>
#include <string>

#include "core/tensor/tensor.h"

namespace neox {

/// A box of a global tensor: offset and extent per axis.
struct Slice {
  Shape offset;
  Shape extent;
  static Slice whole(const Shape& global);
  bool operator==(const Slice&) const = default;
};

/// The box common to both; nothing when they don't meet.
std::optional<Slice> intersect(const Slice& a, const Slice& b);

/// `local` holds slice `slice` of the global tensor `name` of shape `global`, contiguously.
struct Shard {
  std::string name;  ///< dotted, e.g. "layers.0.attention.query_key_value.weight"
  DType dtype = DType::f32;
  Shape global;
  Slice slice;
  Tensor local;
};

}  // namespace neox
