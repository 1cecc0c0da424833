// Activations and gated activations, forward and backward.

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/vectors.cuh"

namespace neox::cuda {
namespace {

struct ValueAndSlope {
  float value;
  float slope;
};

/// NaN passes. Beyond the limits that callers choose, their formula would only multiply 0 by
/// infinity: the function itself has reached 0 or 1 in f32 there.
NEOX_HOST_DEVICE float at_least(float low, float x) {
  return x < low ? low : x;
}
NEOX_HOST_DEVICE float clamp_to_limits(float x, float limit) {
  return x < -limit ? -limit : (x > limit ? limit : x);
}

/// Built from e = exp(-t): s = 1/(1 + e), and 1 - s = e s without its cancellation.
struct Sigmoid {
  NEOX_HOST_DEVICE static float value(float x) { return 1.0f / (1.0f + expf(-x)); }
  NEOX_HOST_DEVICE static ValueAndSlope both(float x) {
    const float e = expf(-clamp_to_limits(x, 80.0f));
    const float s = 1.0f / (1.0f + e);
    return {s, s * (s * e)};
  }
};

struct Silu {
  NEOX_HOST_DEVICE static float value(float x) { return at_least(-104.0f, x) * Sigmoid::value(x); }
  NEOX_HOST_DEVICE static ValueAndSlope both(float x) {
    const float c = clamp_to_limits(x, 80.0f);
    const float e = expf(-c);
    const float s = 1.0f / (1.0f + e);
    return {at_least(-104.0f, x) * s, s + c * s * (s * e)};
  }
};

/// x times the normal distribution's cdf; normcdff keeps its relative accuracy for negative x.
struct Gelu {
  NEOX_HOST_DEVICE static float value(float x) { return at_least(-16.0f, x) * normcdff(x); }
  NEOX_HOST_DEVICE static ValueAndSlope both(float x) {
    constexpr float kInverseRoot = 0.3989422804f;  // 1 / sqrt(2 pi)
    const float c = clamp_to_limits(x, 16.0f);
    const float cdf = normcdff(x);
    return {at_least(-16.0f, x) * cdf, cdf + c * (kInverseRoot * expf(-0.5f * c * c))};
  }
};

/// (1 + tanh u) / 2 = sigmoid(2 u).
struct GeluTanh {
  static constexpr float kTwiceRoot = 1.5957691216f;  // 2 sqrt(2 / pi)
  static constexpr float kCubic = 0.044715f;
  NEOX_HOST_DEVICE static float value(float x) {
    const float c = clamp_to_limits(x, 16.0f);
    return at_least(-16.0f, x) * Sigmoid::value(c * (kTwiceRoot + kTwiceRoot * kCubic * c * c));
  }
  NEOX_HOST_DEVICE static ValueAndSlope both(float x) {
    const float c = clamp_to_limits(x, 10.0f);
    const float square = c * c;
    const float e = expf(-c * (kTwiceRoot + kTwiceRoot * kCubic * square));
    const float s = 1.0f / (1.0f + e);
    const float slope = s + c * s * (s * e) * (kTwiceRoot + 3.0f * kTwiceRoot * kCubic * square);
    return {at_least(-16.0f, x) * s, slope};
  }
};

struct Relu {
  NEOX_HOST_DEVICE static float value(float x) { return x < 0.0f ? 0.0f : x; }
  NEOX_HOST_DEVICE static ValueAndSlope both(float x) {
    return {value(x), x <= 0.0f ? 0.0f : 1.0f};
  }
};

struct SquaredRelu {
  NEOX_HOST_DEVICE static float value(float x) {
    const float r = Relu::value(x);
    return r * r;
  }
  NEOX_HOST_DEVICE static ValueAndSlope both(float x) {
    const float r = Relu::value(x);
    return {r * r, 2.0f * r};
  }
};

/// tanh(log(1 + e)) = n / (n + 2) with n = e (e + 2), e = e^x: no cancellation. It is 1 in f32 for
/// x >= 20.
struct Mish {
  NEOX_HOST_DEVICE static float value(float x) {
    const float e = expf(x > 20.0f ? 20.0f : x);
    const float n = e * (e + 2.0f);
    return at_least(-104.0f, x) * (n / (n + 2.0f));
  }
  NEOX_HOST_DEVICE static ValueAndSlope both(float x) {
    const float c = at_least(-80.0f, x > 20.0f ? 20.0f : x);
    const float e = expf(c);
    const float n = e * (e + 2.0f);
    const float inverse = 1.0f / (n + 2.0f);
    const float t = n / (n + 2.0f);
    return {at_least(-104.0f, x) * t, t + c * (4.0f * e * (e + 1.0f)) * inverse * inverse};
  }
};

struct Softsign {
  NEOX_HOST_DEVICE static float value(float x) {
    const float c = clamp_to_limits(x, 1e30f);
    return c / (1.0f + fabsf(c));
  }
  NEOX_HOST_DEVICE static ValueAndSlope both(float x) {
    const float c = clamp_to_limits(x, 1e30f);
    const float inverse = 1.0f / (1.0f + fabsf(c));
    return {c / (1.0f + fabsf(c)), inverse * inverse};
  }
};

struct Identity {
  NEOX_HOST_DEVICE static float value(float x) { return x; }
  NEOX_HOST_DEVICE static ValueAndSlope both(float x) { return {x, 1.0f}; }
};

/// Calls f with the class of an activation: the only switch over activations in these kernels.
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

// ---- bodies (see launch.cuh) -----------------------------------------------------------------

template <class T, class Act>
struct Forward {
  const T* x;
  T* y;
  template <int N>
  NEOX_HOST_DEVICE void run(std::int64_t, std::int64_t at) const {
    float v[N];
    load<N>(x + at, v);
    for (int i = 0; i < N; ++i) v[i] = Act::value(v[i]);
    store<N>(y + at, v);
  }
};

template <class T, class Act>
struct Backward {
  const T *x, *dy;
  T* dx;
  template <int N>
  NEOX_HOST_DEVICE void run(std::int64_t, std::int64_t at) const {
    float v[N], d[N];
    load<N>(x + at, v);
    load<N>(dy + at, d);
    for (int i = 0; i < N; ++i) d[i] *= Act::both(v[i]).slope;
    store<N>(dx + at, d);
  }
};

template <class T, class Act>
struct GatedForward {
  const T* x;
  T* y;
  std::int64_t width;
  template <int N>
  NEOX_HOST_DEVICE void run(std::int64_t row, std::int64_t column) const {
    const T* gate = x + row * 2 * width + column;
    float g[N], up[N];
    load<N>(gate, g);
    load<N>(gate + width, up);
    for (int i = 0; i < N; ++i) g[i] = Act::value(g[i]) * up[i];
    store<N>(y + row * width + column, g);
  }
};

template <class T, class Act>
struct GatedBackward {
  const T *x, *dy;
  T* dx;
  std::int64_t width;
  template <int N>
  NEOX_HOST_DEVICE void run(std::int64_t row, std::int64_t column) const {
    const std::int64_t at = row * 2 * width + column;
    float g[N], up[N], d[N];
    load<N>(x + at, g);
    load<N>(x + at + width, up);
    load<N>(dy + row * width + column, d);
    for (int i = 0; i < N; ++i) {
      const ValueAndSlope gate = Act::both(g[i]);
      g[i] = d[i] * up[i] * gate.slope;
      up[i] = d[i] * gate.value;
    }
    store<N>(dx + at, g);
    store<N>(dx + at + width, up);
  }
};

/// Calls f(zero of T, activation) for a dtype and an activation.
template <class F>
void visit(DType dtype, Activation kind, F&& f) {
  visit_float(dtype, [&](auto zero) { visit_activation(kind, [&](auto act) { f(zero, act); }); });
}

}  // namespace

void activation(const Launch& launch, Activation kind, DType dtype, const void* x, void* y,
                std::int64_t n) {
  visit(dtype, kind, [&](auto zero, auto act) {
    using T = decltype(zero);
    const Forward<T, decltype(act)> body{static_cast<const T*>(x), static_cast<T*>(y)};
    run<kVector<T>>(launch, body, flat_extent<kVector<T>>(n, aligned(x, y)));
  });
}

void activation_backward(const Launch& launch, Activation kind, DType dtype, const void* x,
                         const void* dy, void* dx, std::int64_t n) {
  visit(dtype, kind, [&](auto zero, auto act) {
    using T = decltype(zero);
    const Backward<T, decltype(act)> body{static_cast<const T*>(x), static_cast<const T*>(dy),
                                          static_cast<T*>(dx)};
    run<kVector<T>>(launch, body, flat_extent<kVector<T>>(n, aligned(x, dy, dx)));
  });
}

void gated_activation(const Launch& launch, Activation kind, DType dtype, const void* x, void* y,
                      std::int64_t rows, std::int64_t width) {
  visit(dtype, kind, [&](auto zero, auto act) {
    using T = decltype(zero);
    const GatedForward<T, decltype(act)> body{static_cast<const T*>(x), static_cast<T*>(y), width};
    run<kVector<T>>(launch, body, row_extent<kVector<T>>(rows, width, aligned(x, y)));
  });
}

void gated_activation_backward(const Launch& launch, Activation kind, DType dtype, const void* x,
                               const void* dy, void* dx, std::int64_t rows, std::int64_t width) {
  visit(dtype, kind, [&](auto zero, auto act) {
    using T = decltype(zero);
    const GatedBackward<T, decltype(act)> body{static_cast<const T*>(x), static_cast<const T*>(dy),
                                               static_cast<T*>(dx), width};
    run<kVector<T>>(launch, body, row_extent<kVector<T>>(rows, width, aligned(x, dy, dx)));
  });
}

}  // namespace neox::cuda
