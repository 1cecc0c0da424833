#pragma once
// Optimizer steps over flat buffers, and the norms for clipping.

#include <array>

#include "core/tensor/tensor.h"
#include "kernels/update_rules.h"

namespace neox {

/// AdamW with bias correction and decoupled decay (Loshchilov & Hutter, ICLR'19), eps outside the
/// root: p -= lr * (m/(1-b1^t) / (sqrt(v/(1-b2^t)) + eps) + weight_decay * p).
struct AdamW {
  float lr = 0.0f;
  float beta1 = 0.9f;
  float beta2 = 0.999f;
  float eps = 1e-8f;
  float weight_decay = 0.0f;
  std::int64_t step = 1;  ///< t, from 1
};

AdamWRule adamw_rule(const AdamW& hyper);

/// f32 [n] each; as many as the rule has, the rest empty.
using UpdateStates = std::array<Tensor, kMostStates>;

class OptimizerOps {
 public:
  virtual ~OptimizerOps() = default;

  /// One step of `rule` over n elements. main, grad, states: f32 [n]; weights: the compute copy
  /// (bf16/f16) that receives the rounded result, or empty when main is what the model computes
  /// with. The gradient is multiplied by grad_scale (f32 [1]) first. `main` may be the gradient's
  /// memory.
  virtual void optimizer_step(Stream& stream, const UpdateRule& rule, ConstTensor grad,
                              ConstTensor grad_scale, Tensor main, const UpdateStates& states,
                              Tensor weights) const = 0;

  /// out f64 [1] (+)= S(x), the sum of x^2 in f64 in an order that depends on n only. x: f32 [n].
  /// `accumulate` is one f64 addition out + S(x). So a norm over disjoint pieces, added in one
  /// order, is the same to the bit whether the pieces are accumulated one after the other or summed
  /// apart and added later in that order; cutting them otherwise changes the last bits.
  virtual void square_sum(Stream& stream, ConstTensor x, Tensor out, bool accumulate) const = 0;

  /// scale f32 [1]: what turns gradients that were computed loss_scale times too large into those
  /// of the step. With norm = sqrt(square_sum) / loss_scale,
  ///   scale = min(1, max_norm / (norm + 1e-6)) / loss_scale; 1 / loss_scale when max_norm <= 0.
  /// loss_scale: 1 to 2^64. Where it is a power of two, nothing is rounded that would not be
  /// with 1.
  virtual void clip_scale(Stream& stream, ConstTensor square_sum, float max_norm, float loss_scale,
                          Tensor scale) const = 0;
};

}  // namespace neox
