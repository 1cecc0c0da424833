// Steps with a number for each row and column. Maxima of rows and of columns are taken in two
// passes, each of which writes what no other thread does.

#include <algorithm>

#include "kernels/cpu/cpu_backend.h"

namespace neox {
namespace {

/// The elements of a part, and the numbers of their rows and columns.
struct Elements {
  MatrixPart part;
  std::int64_t n;
  const float *grad, *rows, *columns;  // columns: null for a vector
  float grad_scale;

  std::int64_t begin_column(std::int64_t r) const {
    return std::max<std::int64_t>(0, part.begin - r * part.width);
  }
  std::int64_t end_column(std::int64_t r) const {
    return std::min(part.width, part.begin + n - r * part.width);
  }
  float gradient(std::int64_t r, std::int64_t c) const {
    return grad[part.index(r, c)] * grad_scale;
  }
  float least(std::int64_t r, std::int64_t c) const {
    const float of_row = rows[part.row + r];
    return columns == nullptr ? of_row : std::min(of_row, columns[part.column + c]);
  }
};

Elements elements_of(const MatrixPart& part, ConstTensor grad, ConstTensor grad_scale,
                     ConstTensor rows, ConstTensor columns) {
  return {part,
          grad.numel(),
          grad.ptr<float>(),
          rows.ptr<float>(),
          columns ? columns.ptr<float>() : nullptr,
          *grad_scale.ptr<float>()};
}

// The work of a row, for all rows that the elements touch.
template <class Body>
void for_rows(const Elements& e, const Body& body) {
  const std::int64_t first = e.part.first_row(), end = first + e.part.row_count(e.n);
#pragma omp parallel for schedule(static) if (e.n > 16384)
  for (std::int64_t r = first; r < end; ++r) body(r);
}

template <class W>
void step(const Elements& e, const Sm3& rule, float* main, float* momentum, W* weights) {
  for_rows(e, [&](std::int64_t r) {
    for (std::int64_t c = e.begin_column(r); c < e.end_column(r); ++c) {
      const std::int64_t i = e.part.index(r, c);
      float u = rule.direction(e.gradient(r, c), e.least(r, c));
      if (momentum != nullptr) {
        u = rule.momentum * momentum[i] + (1.0f - rule.momentum) * u;
        momentum[i] = u;
      }
      main[i] -= rule.lr * u + rule.decay * main[i];
      if constexpr (!std::is_same_v<W, float>) weights[i] = W(main[i]);
    }
  });
}

}  // namespace

void CpuBackend::sm3_maxima(Stream&, const Sm3& rule, const MatrixPart& part, ConstTensor grad,
                            ConstTensor grad_scale, ConstTensor rows, ConstTensor columns,
                            Tensor new_rows, Tensor new_columns) const {
  const Elements e = elements_of(part, grad, grad_scale, rows, columns);
  const auto nu = [&](std::int64_t r, std::int64_t c) {
    return rule.nu(e.gradient(r, c), e.least(r, c));
  };
  float* of_rows = new_rows.ptr<float>() + part.row;
  for_rows(e, [&](std::int64_t r) {
    float largest = of_rows[r];
    for (std::int64_t c = e.begin_column(r); c < e.end_column(r); ++c) {
      largest = std::max(largest, nu(r, c));
    }
    of_rows[r] = largest;
  });
  if (!new_columns || e.n == 0) return;
  float* of_columns = new_columns.ptr<float>() + part.column;
  constexpr std::int64_t kColumns = 64;
  const std::int64_t first = part.first_row(), end = first + part.row_count(e.n);
#pragma omp parallel for schedule(static) if (e.n > 16384)
  for (std::int64_t begin = 0; begin < part.width; begin += kColumns) {
    for (std::int64_t r = first; r < end; ++r) {
      const std::int64_t last = std::min(begin + kColumns, e.end_column(r));
      for (std::int64_t c = std::max(begin, e.begin_column(r)); c < last; ++c) {
        of_columns[c] = std::max(of_columns[c], nu(r, c));
      }
    }
  }
}

void CpuBackend::sm3_step(Stream&, const Sm3& rule, const MatrixPart& part, ConstTensor grad,
                          ConstTensor grad_scale, ConstTensor rows, ConstTensor columns,
                          Tensor main, Tensor momentum, Tensor weights) const {
  const Elements e = elements_of(part, grad, grad_scale, rows, columns);
  float* const kept = momentum ? momentum.ptr<float>() : nullptr;
  if (!weights) return step<float>(e, rule, main.ptr<float>(), kept, nullptr);
  visit_float(weights.dtype, [&](auto zero) {
    using W = decltype(zero);
    require(!(std::is_same_v<W, float>),
            "internal error: f32 weights need no copy; leave it empty");
    step(e, rule, main.ptr<float>(), kept, weights.ptr<W>());
  });
}

}  // namespace neox
