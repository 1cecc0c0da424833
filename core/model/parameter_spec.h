#pragma once
// What a parameter is, before it has memory.

#include <cstdint>
#include <string>

#include "core/base/model_types.h"
#include "core/tensor/shard.h"

namespace neox {

/// How a parameter starts; formulas in init.h.
struct InitRule {
  enum class Kind : std::uint8_t { zeros, ones, random };
  Kind kind = Kind::zeros;
  InitMethod method = InitMethod::normal;  // for random
};

/// Over which ranks the gradient of a parameter that they hold alike must be summed, because each
/// of them computes only a part of it.
enum class GradientSum : std::uint8_t {
  none,      ///< every holder computes the whole gradient of what it holds
  tensor,    ///< the tensor group: each rank sees some of the rows (sequence parallelism)
  key_value  ///< the tensor ranks that share a key/value head (more ranks than such heads)
};

struct ParameterSpec {
  std::string name;  ///< dotted, e.g. "layers.0.attention.dense.weight"
  Shape global;      ///< [out, in] for weights of linear layers
  Slice slice;       ///< the part this rank holds
  InitRule init{};
  bool decay = false;  ///< weight decay applies
  GradientSum sum = GradientSum::none;
  /// Of the model-parallel ranks that hold the same slice, exactly one counts it: in norms, in
  /// parameter counts, in checkpoints.
  bool counted = true;
  /// Also held by another pipeline stage, which computes another part of its gradient: the sum over
  /// the embedding group is the gradient.
  bool tied_across_stages = false;
  /// Elements to reserve where the slices of other tensor ranks are larger (0: no more than the
  /// slice has): every tensor rank then lays out its blocks alike, and sums over them match.
  std::int64_t reserve = 0;
};

}  // namespace neox
