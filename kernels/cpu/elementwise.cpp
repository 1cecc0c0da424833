#include <cstring>

#include "kernels/cpu/activation_math.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/dropout_mask.h"
#include "kernels/cpu/parallel.h"

namespace neox {
namespace {

using simd::Floats;

/// Dropout of one operand of a row; compiled away when there is none.
template <bool Active>
struct RowDropout {
  RowDropout(const Dropout&, std::int64_t, std::int64_t) {}
  std::int64_t prepare(std::int64_t) const { return INT64_MAX; }
  Floats apply(std::int64_t, Floats x) const { return x; }
};
template <>
struct RowDropout<true> {
  RowDropout(const Dropout& dropout, std::int64_t row, std::int64_t width)
      : draws(dropout), base(first_element(dropout, row, width)) {}
  /// Makes ready the draws of columns [column, column + n) and returns n.
  std::int64_t prepare(std::int64_t column) { return draws.prepare(base + column); }
  /// Dropout of the lanes whose first is `offset` columns after the last prepare()'s.
  Floats apply(std::int64_t offset, Floats x) const { return draws.apply(offset, x); }
  simd::DropoutDraws draws;
  std::int64_t base;
};

struct SumArguments {
  ConstTensor residual, a, b;
  const Dropout &dropout_a, &dropout_b;
  Tensor y;
};

/// y = residual + dropout(a) + dropout(b) for one dtype and one choice of operands.
template <class T, bool HasResidual, bool HasB, bool DropA, bool DropB>
void dropout_sum(const SumArguments& args) {
  const std::int64_t rows = args.y.rows(), width = args.y.cols();
  const T* residual = HasResidual ? args.residual.ptr<T>() : nullptr;
  const T* a = args.a.ptr<T>();
  const T* b = HasB ? args.b.ptr<T>() : nullptr;
  T* y = args.y.ptr<T>();
  parallel_rows(rows, width, [&](std::int64_t row) {
    RowDropout<DropA> drop_a(args.dropout_a, row, width);
    RowDropout<DropB> drop_b(args.dropout_b, row, width);
    const std::int64_t at = row * width;
    for (std::int64_t begin = 0; begin < width;) {
      const std::int64_t ready = std::min(drop_a.prepare(begin), drop_b.prepare(begin));
      const std::int64_t end = width - begin < ready ? width : begin + ready;
      simd::vector_for(begin, end, [&](auto lanes, std::int64_t i) {
        Floats sum = drop_a.apply(i - begin, lanes.load(a + at + i));
        if constexpr (HasResidual) sum = lanes.load(residual + at + i) + sum;
        if constexpr (HasB) sum += drop_b.apply(i - begin, lanes.load(b + at + i));
        lanes.store(y + at + i, sum);
      });
      begin = end;
    }
  });
}

/// Calls f with compile-time copies of the flags.
template <class F>
void with_flag(bool flag, F&& f) {
  flag ? f(std::true_type{}) : f(std::false_type{});
}

template <class From, class To>
void convert(const From* x, To* y, std::int64_t n) {
  parallel_ranges(n, [&](std::int64_t begin, std::int64_t end) {
    simd::vector_for(begin, end,
                     [&](auto lanes, std::int64_t i) { lanes.store(y + i, lanes.load(x + i)); });
  });
}

}  // namespace

void CpuBackend::activation(Stream&, Activation kind, ConstTensor x, Tensor y) const {
  visit_float(y.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T* in = x.ptr<T>();
    T* out = y.ptr<T>();
    simd::visit_activation(kind, [&](auto act) {
      parallel_ranges(y.numel(), [&](std::int64_t begin, std::int64_t end) {
        simd::vector_for(begin, end, [&](auto lanes, std::int64_t i) {
          lanes.store(out + i, act.value(lanes.load(in + i)));
        });
      });
    });
  });
}

void CpuBackend::activation_backward(Stream&, Activation kind, ConstTensor x, ConstTensor dy,
                                     Tensor dx) const {
  visit_float(dx.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T *in = x.ptr<T>(), *grad = dy.ptr<T>();
    T* out = dx.ptr<T>();
    simd::visit_activation(kind, [&](auto act) {
      parallel_ranges(dx.numel(), [&](std::int64_t begin, std::int64_t end) {
        simd::vector_for(begin, end, [&](auto lanes, std::int64_t i) {
          lanes.store(out + i, act.both(lanes.load(in + i)).slope * lanes.load(grad + i));
        });
      });
    });
  });
}

void CpuBackend::gated_activation(Stream&, Activation kind, ConstTensor x, Tensor y) const {
  const std::int64_t rows = y.rows(), f = y.cols();
  visit_float(y.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T* in = x.ptr<T>();
    T* out = y.ptr<T>();
    simd::visit_activation(kind, [&](auto act) {
      parallel_rows(rows, f, [&](std::int64_t row) {
        const T *gate = in + row * 2 * f, *up = gate + f;
        simd::vector_for(0, f, [&](auto lanes, std::int64_t i) {
          lanes.store(out + row * f + i, act.value(lanes.load(gate + i)) * lanes.load(up + i));
        });
      });
    });
  });
}

void CpuBackend::gated_activation_backward(Stream&, Activation kind, ConstTensor x, ConstTensor dy,
                                           Tensor dx) const {
  const std::int64_t rows = dy.rows(), f = dy.cols();
  visit_float(dx.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T *in = x.ptr<T>(), *grad = dy.ptr<T>();
    T* out = dx.ptr<T>();
    simd::visit_activation(kind, [&](auto act) {
      parallel_rows(rows, f, [&](std::int64_t row) {
        const std::int64_t at = row * 2 * f;
        simd::vector_for(0, f, [&](auto lanes, std::int64_t i) {
          const simd::ValueAndSlope gate = act.both(lanes.load(in + at + i));
          const Floats up = lanes.load(in + at + f + i);
          const Floats d = lanes.load(grad + row * f + i);
          lanes.store(out + at + i, d * up * gate.slope);
          lanes.store(out + at + f + i, d * gate.value);
        });
      });
    });
  });
}

void CpuBackend::residual_add(Stream&, ConstTensor residual, ConstTensor a,
                              const Dropout& dropout_a, ConstTensor b, const Dropout& dropout_b,
                              Tensor y) const {
  const SumArguments args{residual, a, b, dropout_a, dropout_b, y};
  visit_float(y.dtype, [&](auto zero) {
    using T = decltype(zero);
    with_flag(static_cast<bool>(residual), [&](auto has_residual) {
      with_flag(dropout_a.p > 0.0f, [&](auto drop_a) {
        with_flag(b && dropout_b.p > 0.0f, [&](auto drop_b) {
          with_flag(static_cast<bool>(b), [&](auto has_b) {
            dropout_sum<T, has_residual(), has_b(), drop_a(), drop_b()>(args);
          });
        });
      });
    });
  });
}

void CpuBackend::dropout(Stream& stream, ConstTensor x, const Dropout& dropout, Tensor y) const {
  if (dropout.p <= 0.0f) {
    if (y.data != x.data) copy(stream, x, y);
    return;
  }
  const SumArguments args{{}, x, {}, dropout, dropout, y};
  visit_float(y.dtype,
              [&](auto zero) { dropout_sum<decltype(zero), false, false, true, false>(args); });
}

void CpuBackend::cast(Stream&, ConstTensor x, Tensor y) const {
  visit_float(x.dtype, [&](auto from) {
    visit_float(y.dtype, [&](auto to) {
      convert(x.ptr<decltype(from)>(), y.ptr<decltype(to)>(), y.numel());
    });
  });
}

void CpuBackend::add_into(Stream&, ConstTensor x, Tensor y) const {
  visit_float(y.dtype, [&](auto zero) {
    using T = decltype(zero);
    T* sum = y.ptr<T>();
    const auto add = [&](const auto* term) {
      parallel_ranges(y.numel(), [&](std::int64_t begin, std::int64_t end) {
        simd::vector_for(begin, end, [&](auto lanes, std::int64_t i) {
          lanes.store(sum + i, lanes.load(sum + i) + lanes.load(term + i));
        });
      });
    };
    x.dtype == y.dtype ? add(x.ptr<T>()) : add(x.ptr<float>());
  });
}

}  // namespace neox
