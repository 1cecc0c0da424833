// Residual sums with dropout, casts, accumulation.

#include <type_traits>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/vectors.cuh"

namespace neox::cuda {
namespace {

/// Dropout of one operand; compiled away when there is none.
template <bool Active>
struct Dropping {
  explicit Dropping(const Dropout&) {}
  template <int N>
  NEOX_HOST_DEVICE void apply(std::int64_t, std::int64_t, std::int64_t, float (&)[N]) const {}
};
template <>
struct Dropping<true> {
  explicit Dropping(const Dropout& d) : dropout(d), rule(d.p) {}
  /// N neighbours from a column on. For N > 1 width and column are multiples of N, and N of 4: so
  /// the draws are whole Philox counters.
  template <int N>
  NEOX_HOST_DEVICE void apply(std::int64_t row, std::int64_t column, std::int64_t width,
                              float (&v)[N]) const {
    const auto index = static_cast<std::uint64_t>(first_element(dropout, row, width) + column);
    const RngKey key = key_of(dropout);
    if constexpr (N == 1) {
      v[0] = rule.apply(philox_word(key, index), v[0]);
    } else {
      static_assert(N % 4 == 0);
      for (int quad = 0; quad < N / 4; ++quad) {
        const PhiloxWords words = philox(key, (index >> 2) + static_cast<std::uint64_t>(quad));
        for (int i = 0; i < 4; ++i) v[quad * 4 + i] = rule.apply(words.word[i], v[quad * 4 + i]);
      }
    }
  }
  Dropout dropout;
  KeepRule rule;
};

/// y = residual + dropout(a) + dropout(b), summed in that order.
template <class T, bool HasResidual, bool HasB, bool DropA, bool DropB>
struct Sum {
  const T *residual, *a, *b;
  T* y;
  std::int64_t width;
  Dropping<DropA> drop_a;
  Dropping<DropB> drop_b;
  template <int N>
  NEOX_HOST_DEVICE void run(std::int64_t row, std::int64_t column) const {
    const std::int64_t at = row * width + column;
    float sum[N];
    load<N>(a + at, sum);
    drop_a.template apply<N>(row, column, width, sum);
    if constexpr (HasResidual) {
      float r[N];
      load<N>(residual + at, r);
      for (int i = 0; i < N; ++i) sum[i] = r[i] + sum[i];
    }
    if constexpr (HasB) {
      float v[N];
      load<N>(b + at, v);
      drop_b.template apply<N>(row, column, width, v);
      for (int i = 0; i < N; ++i) sum[i] += v[i];
    }
    store<N>(y + at, sum);
  }
};

template <class T, bool HasResidual, bool HasB, bool DropA, bool DropB>
void launch_sum(const Launch& launch, const DropoutSum& sum) {
  const Sum<T, HasResidual, HasB, DropA, DropB> body{static_cast<const T*>(sum.residual),
                                                     static_cast<const T*>(sum.a),
                                                     static_cast<const T*>(sum.b),
                                                     static_cast<T*>(sum.y),
                                                     sum.width,
                                                     Dropping<DropA>(sum.dropout_a),
                                                     Dropping<DropB>(sum.dropout_b)};
  constexpr int kN = kVector<T>;
  const bool whole = aligned(sum.residual, sum.a, sum.b, sum.y);  // null counts as aligned
  const Extent extent = DropA || DropB ? row_extent<kN>(sum.rows, sum.width, whole)
                                       : flat_extent<kN>(sum.rows * sum.width, whole);
  run<kN>(launch, body, extent);
}

/// Calls f with a compile-time copy of the flag.
template <class F>
void with_flag(bool flag, F&& f) {
  flag ? f(std::true_type{}) : f(std::false_type{});
}

template <class From, class To>
struct Convert {
  const From* x;
  To* y;
  template <int N>
  NEOX_HOST_DEVICE void run(std::int64_t, std::int64_t at) const {
    float v[N];
    load<N>(x + at, v);
    store<N>(y + at, v);
  }
};

template <class Term, class T>
struct Add {
  const Term* x;
  T* y;
  template <int N>
  NEOX_HOST_DEVICE void run(std::int64_t, std::int64_t at) const {
    float sum[N], term[N];
    load<N>(y + at, sum);
    load<N>(x + at, term);
    for (int i = 0; i < N; ++i) sum[i] += term[i];
    store<N>(y + at, sum);
  }
};

template <class Term, class T>
void launch_add(const Launch& launch, const void* x, void* y, std::int64_t n) {
  const Add<Term, T> body{static_cast<const Term*>(x), static_cast<T*>(y)};
  run<kVector<T>>(launch, body, flat_extent<kVector<T>>(n, aligned(x, y)));
}

}  // namespace

void dropout_sum(const Launch& launch, DType dtype, const DropoutSum& sum) {
  visit_float(dtype, [&](auto zero) {
    using T = decltype(zero);
    with_flag(sum.residual != nullptr, [&](auto has_residual) {
      with_flag(sum.dropout_a.p > 0.0f, [&](auto drop_a) {
        if (sum.b == nullptr) {
          return launch_sum<T, has_residual(), false, drop_a(), false>(launch, sum);
        }
        with_flag(sum.dropout_b.p > 0.0f, [&](auto drop_b) {
          launch_sum<T, has_residual(), true, drop_a(), drop_b()>(launch, sum);
        });
      });
    });
  });
}

void cast(const Launch& launch, DType from, const void* x, DType to, void* y, std::int64_t n) {
  visit_float(from, [&](auto x_zero) {
    visit_float(to, [&](auto y_zero) {
      using From = decltype(x_zero);
      using To = decltype(y_zero);
      constexpr int kN = kVector < From >> kVector<To> ? kVector<From> : kVector<To>;
      const Convert<From, To> body{static_cast<const From*>(x), static_cast<To*>(y)};
      run<kN>(launch, body, flat_extent<kN>(n, aligned(x, y)));
    });
  });
}

void add_into(const Launch& launch, DType x_type, const void* x, DType y_type, void* y,
              std::int64_t n) {
  visit_float(y_type, [&](auto zero) {
    using T = decltype(zero);
    x_type == y_type ? launch_add<T, T>(launch, x, y, n) : launch_add<float, T>(launch, x, y, n);
  });
}

}  // namespace neox::cuda
