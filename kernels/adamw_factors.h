#pragma once
// AdamW's arithmetic, for every backend. Plain types only: CUDA sources include it.

namespace neox {

/// What AdamW's hyperparameters amount to at step t (adamw_factors in kernels/optimizer.h). With
/// gradient g, m and v from the step before:
///   m = beta1 m + rest1 g,  v = beta2 v + rest2 g^2,
///   p -= step_size m / (sqrt(v) inverse_root2 + eps) + decay p.
struct AdamWFactors {
  float beta1, beta2, rest1, rest2;  ///< rest = 1 - beta
  float step_size;                   ///< lr / (1 - beta1^t)
  float inverse_root2;               ///< 1 / sqrt(1 - beta2^t)
  float eps;
  float decay;  ///< lr * weight_decay
};

}  // namespace neox
