#pragma once
// Activations, residual sums, dropout, casts.

#include "core/base/model_types.h"
#include "core/base/rng.h"
#include "core/tensor/tensor.h"

namespace neox {

/// Dropout of a tensor [rows, width] whose rows are tokens. An element is kept when the Philox draw
/// of its *global* index is >= p, and then scaled by 1/(1-p); so masks do not depend on the layout.
/// Global index of (row r, column c), with sample = first_sample + r / local_seq and
/// position = first_position + r % local_seq: (sample * global_seq + position) * width + c.
/// Hence rows [first_row, first_row + n) of the flat rows [samples * seq] of a micro-batch (a shard
/// of sequence parallelism, which may begin and end inside a sample) are described by
/// local_seq = global_seq = seq and first_position = first_row, which may be >= seq: the index is
/// then (first_sample * seq + first_row + r) * width + c, linear in r across samples.
struct Dropout {
  float p = 0.0f;  ///< probability of zero; 0 is the identity
  RngKey key{};
  std::int64_t first_sample = 0;    ///< index of row 0's sample in the global batch
  std::int64_t local_seq = 1;       ///< rows per sample held here
  std::int64_t first_position = 0;  ///< position of a sample's first row held here
  std::int64_t global_seq = 1;      ///< positions per sample
};

class ElementwiseOps {
 public:
  virtual ~ElementwiseOps() = default;

  /// y = act(x). x, y: T, same shape; y may be x.
  virtual void activation(Stream& stream, Activation kind, ConstTensor x, Tensor y) const = 0;
  /// dx = act'(x) dy. dx may be dy.
  virtual void activation_backward(Stream& stream, Activation kind, ConstTensor x, ConstTensor dy,
                                   Tensor dx) const = 0;

  /// y[rows, f] = act(x[:, :f]) x[:, f:]; x [rows, 2f] is [gate | up].
  virtual void gated_activation(Stream& stream, Activation kind, ConstTensor x, Tensor y) const = 0;
  /// dx [rows, 2f] = [d gate | d up].
  virtual void gated_activation_backward(Stream& stream, Activation kind, ConstTensor x,
                                         ConstTensor dy, Tensor dx) const = 0;

  /// y = residual + dropout(a) + dropout(b); residual and b may be empty (= 0). All T; y may be
  /// residual, a or b.
  virtual void residual_add(Stream& stream, ConstTensor residual, ConstTensor a,
                            const Dropout& dropout_a, ConstTensor b, const Dropout& dropout_b,
                            Tensor y) const = 0;

  /// y = dropout(x) (also the backward of itself). y may be x.
  virtual void dropout(Stream& stream, ConstTensor x, const Dropout& dropout, Tensor y) const = 0;

  /// y = x converted to y's dtype (f32, bf16, f16; to nearest even).
  virtual void cast(Stream& stream, ConstTensor x, Tensor y) const = 0;
  /// y += x (dtype T of y; x of the same dtype or f32).
  virtual void add_into(Stream& stream, ConstTensor x, Tensor y) const = 0;
};

}  // namespace neox
