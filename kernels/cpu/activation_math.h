#pragma once
// The activations of core/base/model_types.h on vectors: value, and value with derivative.

#include "core/base/model_types.h"
#include "kernels/cpu/simd_math.h"

namespace neox::simd {

struct ValueAndSlope {
  Floats value;
  Floats slope;
};

/// x within [-limit, limit]; NaN passes. Callers choose limits beyond which their formula would
/// only multiply 0 by infinity: the function itself has reached 0 or 1 in f32 there.
inline Floats clamp_to_limits(Floats x, float limit) {
  return min(broadcast(limit), max(broadcast(-limit), x));
}

struct Gelu {
  static Floats value(Floats x) { return max(broadcast(-16.0f), x) * normal(x).cdf; }
  static ValueAndSlope both(Floats x) {
    const Normal n = normal(x);
    return {max(broadcast(-16.0f), x) * n.cdf, n.cdf + clamp_to_limits(x, 16.0f) * n.density};
  }
};

/// (1 + tanh u) / 2 = sigmoid(2 u).
struct GeluTanh {
  static constexpr float kTwiceRoot = 1.5957691216f;  // 2 sqrt(2 / pi)
  static constexpr float kCubic = 0.044715f;
  static Floats value(Floats x) {
    const Floats c = clamp_to_limits(x, 16.0f);
    return max(broadcast(-16.0f), x) * sigmoid(c * (kTwiceRoot + kTwiceRoot * kCubic * c * c));
  }
  static ValueAndSlope both(Floats x) {
    const Floats c = clamp_to_limits(x, 10.0f);
    const Floats square = c * c;
    const Floats e = exp(-c * (kTwiceRoot + kTwiceRoot * kCubic * square));
    const Floats s = 1.0f / (1.0f + e);
    // 1 - s = e s, without its cancellation; e is finite for |c| <= 10.
    const Floats slope = s + c * s * (s * e) * (kTwiceRoot + 3.0f * kTwiceRoot * kCubic * square);
    return {max(broadcast(-16.0f), x) * s, slope};
  }
};

struct Silu {
  static Floats value(Floats x) { return max(broadcast(-104.0f), x) * sigmoid(x); }
  static ValueAndSlope both(Floats x) {
    const Floats c = clamp_to_limits(x, 80.0f);
    const Floats e = exp(-c);
    const Floats s = 1.0f / (1.0f + e);
    return {max(broadcast(-104.0f), x) * s, s + c * s * (s * e)};
  }
};

struct Relu {
  static Floats value(Floats x) { return x < 0.0f ? Floats{} : x; }
  static ValueAndSlope both(Floats x) { return {value(x), x <= 0.0f ? Floats{} : broadcast(1.0f)}; }
};

struct SquaredRelu {
  static Floats value(Floats x) {
    const Floats r = Relu::value(x);
    return r * r;
  }
  static ValueAndSlope both(Floats x) {
    const Floats r = Relu::value(x);
    return {r * r, 2.0f * r};
  }
};

/// tanh(log(1 + e)) = n / (n + 2) with n = e (e + 2), e = e^x: no cancellation. It is 1 in f32 for
/// x >= 20.
struct Mish {
  static Floats value(Floats x) {
    const Floats e = exp(min(broadcast(20.0f), x));
    const Floats n = e * (e + 2.0f);
    return max(broadcast(-104.0f), x) * (n / (n + 2.0f));
  }
  static ValueAndSlope both(Floats x) {
    const Floats c = min(broadcast(20.0f), max(broadcast(-80.0f), x));
    const Floats e = exp(c);
    const Floats n = e * (e + 2.0f);
    const Floats inverse = 1.0f / (n + 2.0f);
    const Floats t = n / (n + 2.0f);
    return {max(broadcast(-104.0f), x) * t, t + c * (4.0f * e * (e + 1.0f)) * inverse * inverse};
  }
};

struct Softsign {
  static Floats value(Floats x) {
    const Floats c = clamp_to_limits(x, 1e30f);
    return c / (1.0f + max(-c, c));
  }
  static ValueAndSlope both(Floats x) {
    const Floats c = clamp_to_limits(x, 1e30f);
    const Floats inverse = 1.0f / (1.0f + max(-c, c));
    return {c / (1.0f + max(-c, c)), inverse * inverse};
  }
};

struct Sigmoid {
  static Floats value(Floats x) { return sigmoid(x); }
  static ValueAndSlope both(Floats x) {
    const Floats e = exp(-clamp_to_limits(x, 80.0f));
    const Floats s = 1.0f / (1.0f + e);
    return {s, s * (s * e)};
  }
};

struct Identity {
  static Floats value(Floats x) { return x; }
  static ValueAndSlope both(Floats x) { return {x, broadcast(1.0f)}; }
};

/// Calls f with the class of an activation: the only switch over activations in the CPU kernels.
template <class F>
void visit_activation(Activation kind, F&& f) {
  switch (kind) {
    case Activation::gelu:
      return f(Gelu{});
    case Activation::gelu_tanh:
      return f(GeluTanh{});
    case Activation::silu:
      return f(Silu{});
    case Activation::relu:
      return f(Relu{});
    case Activation::squared_relu:
      return f(SquaredRelu{});
    case Activation::mish:
      return f(Mish{});
    case Activation::softsign:
      return f(Softsign{});
    case Activation::sigmoid:
      return f(Sigmoid{});
    case Activation::identity:
      return f(Identity{});
  }
}

}  // namespace neox::simd
