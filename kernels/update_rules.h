#pragma once
// What an optimizer does to one element, for every backend. Plain types only: CUDA sources include
// it.

#include <cmath>
#include <variant>

#include "core/base/host_device.h"

namespace neox {

/// A rule is called with the gradient g (clipped), the parameter p and its states a, b, c, of which
/// it uses the first kStates, and returns the new parameter. States start at zero.

/// AdamW (adamw_rule in kernels/optimizer.h has the formula). m = a, v = b.
struct AdamWRule {
  static constexpr int kStates = 2;
  float beta1, beta2, rest1, rest2;  ///< rest = 1 - beta
  float step_size;                   ///< lr / (1 - beta1^t)
  float inverse_root2;               ///< 1 / sqrt(1 - beta2^t)
  float eps;
  float decay;  ///< lr * weight_decay
  NEOX_HOST_DEVICE float operator()(float g, float p, float& a, float& b, float&) const {
    a = beta1 * a + rest1 * g;
    b = beta2 * b + rest2 * (g * g);
    const float update = step_size * a / (std::sqrt(b) * inverse_root2 + eps);
    return p - (update + decay * p);
  }
};

/// Adam with an L2 term (Kingma & Ba, ICLR'15, and its section on regularisation): AdamW without
/// decay of the gradient g + l2 p.
struct AdamL2Rule {
  static constexpr int kStates = 2;
  AdamWRule adam;  ///< decay 0
  float l2;
  NEOX_HOST_DEVICE float operator()(float g, float p, float& a, float& b, float& c) const {
    return adam(g + l2 * p, p, a, b, c);
  }
};

/// The first half of LAMB (You et al., ICLR'20): moments as AdamW's, in a and b; c is the
/// parameter. Returns the update r = m^ / (sqrt(v^) + eps) + weight_decay c, which is written where
/// the gradient was.
struct LambUpdateRule {
  static constexpr int kStates = 3;
  AdamWRule adam;      ///< step_size 1 / (1 - beta1^t), without lr
  float weight_decay;  ///< not times lr
  NEOX_HOST_DEVICE float operator()(float g, float, float& a, float& b, float& c) const {
    a = adam.beta1 * a + adam.rest1 * g;
    b = adam.beta2 * b + adam.rest2 * (g * g);
    const float update = adam.step_size * a / (std::sqrt(b) * adam.inverse_root2 + adam.eps);
    return update + weight_decay * c;
  }
};

/// Lion (Chen et al. 2023, arXiv:2302.06675): p = p (1 - lr wd) - lr sign(beta1 m + rest1 g), then
/// m = beta2 m + rest2 g; m = a. The sign of 0 is 0.
struct LionRule {
  static constexpr int kStates = 1;
  float beta1, beta2, rest1, rest2;
  float lr;
  float decay;  ///< lr * weight_decay
  NEOX_HOST_DEVICE float operator()(float g, float p, float& a, float&, float&) const {
    const float mixed = beta1 * a + rest1 * g;
    a = beta2 * a + rest2 * g;
    // What is not a number must not look healthy: mixed - mixed keeps it.
    const float step = mixed > 0.0f ? lr : mixed < 0.0f ? -lr : mixed - mixed;
    return p - decay * p - step;
  }
};

/// p -= lr (g + l2 p).
struct SgdRule {
  static constexpr int kStates = 0;
  float lr;
  float l2;
  NEOX_HOST_DEVICE float operator()(float g, float p, float&, float&, float&) const {
    return p - lr * (g + l2 * p);
  }
};

/// SGD with momentum (Sutskever et al., ICML'13, in the form without dampening): d = g + l2 p,
/// m = momentum m + d, p -= lr m, or with nesterov lr (d + momentum m); m = a.
struct MomentumRule {
  static constexpr int kStates = 1;
  float lr;
  float l2;
  float momentum;
  bool nesterov;
  NEOX_HOST_DEVICE float operator()(float g, float p, float& a, float&, float&) const {
    const float d = g + l2 * p;
    a = momentum * a + d;
    return p - lr * (nesterov ? d + momentum * a : a);
  }
};

/// MADGRAD (Defazio & Jelassi 2021, arXiv:2101.11075, algorithm 1) with decoupled decay. With
/// lamb = lr sqrt(t): v += lamb g^2, s += lamb g, z = x0 - s / (cbrt(v) + eps),
/// p = (1 - mix) (p - decay p) + mix z; v = a, s = b, x0 = c, which the first step takes from p.
struct MadgradRule {
  static constexpr int kStates = 3;
  float lamb;
  float eps;
  float mix;    ///< 1 - momentum
  float decay;  ///< lr * weight_decay
  bool first;   ///< t = 1
  NEOX_HOST_DEVICE float operator()(float g, float p, float& a, float& b, float& c) const {
    c = first ? p : c;
    a = a + lamb * (g * g);
    b = b + lamb * g;
    const float z = c - b / (std::cbrt(a) + eps);
    return (1.0f - mix) * (p - decay * p) + mix * z;
  }
};

/// MADGRAD without momentum: x0 is what the states and the decayed parameter say, v = a, s = b.
struct MadgradPlainRule {
  static constexpr int kStates = 2;
  float lamb;
  float eps;
  float decay;  ///< lr * weight_decay
  NEOX_HOST_DEVICE float operator()(float g, float p, float& a, float& b, float&) const {
    const float x0 = (p - decay * p) + b / (std::cbrt(a) + eps);
    a = a + lamb * (g * g);
    b = b + lamb * g;
    return x0 - b / (std::cbrt(a) + eps);
  }
};

using UpdateRule = std::variant<AdamWRule, AdamL2Rule, LambUpdateRule, LionRule, SgdRule,
                                MomentumRule, MadgradRule, MadgradPlainRule>;
inline constexpr int kMostStates = 3;

}  // namespace neox
