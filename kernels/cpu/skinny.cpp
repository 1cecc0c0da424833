#include "kernels/cpu/skinny.h"

#include <algorithm>

#include "kernels/cpu/simd.h"

namespace neox {
namespace {

using simd::Floats;
using simd::kLanes;
constexpr std::int64_t kOutputs = 4;  // weight rows read together

// Dot products of weight rows [first, first + count) with all x. Rows that do not exist repeat the
// last one: their results are dropped.
template <int kRows, class T, class Store>
void dot_rows(const float* x, const T* w, std::int64_t in, std::int64_t first, std::int64_t count,
              Store&& store) {
  Floats sums[kOutputs][kRows] = {};
  const T* row[kOutputs];
  for (std::int64_t o = 0; o < kOutputs; ++o) row[o] = w + (first + std::min(o, count - 1)) * in;
  const std::int64_t whole = in / kLanes * kLanes;
  for (std::int64_t i = 0; i < whole; i += kLanes) {
    Floats weights[kOutputs];
    for (int o = 0; o < kOutputs; ++o) weights[o] = simd::load(row[o] + i);
    for (int r = 0; r < kRows; ++r) {
      const Floats values = simd::load(x + r * in + i);
      for (int o = 0; o < kOutputs; ++o) sums[o][r] += weights[o] * values;
    }
  }
  for (std::int64_t o = 0; o < count; ++o) {
    for (int r = 0; r < kRows; ++r) {
      float total = simd::sum(sums[o][r]);
      for (std::int64_t i = whole; i < in; ++i)
        total += static_cast<float>(row[o][i]) * x[r * in + i];
      store(first + o, r, total);
    }
  }
}

template <int kRows, class T, class Y>
void product(const float* x, const T* w, const T* bias, Y* y, std::int64_t in, std::int64_t out) {
  const std::int64_t groups = (out + kOutputs - 1) / kOutputs;
#pragma omp parallel for schedule(static) if (in * out > 8192)
  for (std::int64_t g = 0; g < groups; ++g) {
    const std::int64_t first = g * kOutputs;
    dot_rows<kRows>(x, w, in, first, std::min(kOutputs, out - first),
                    [&](std::int64_t o, int r, float total) {
                      if (bias != nullptr) total += static_cast<float>(bias[o]);
                      y[r * out + o] = static_cast<Y>(total);
                    });
  }
}

template <class T, class Y>
void product(std::int64_t rows, const float* x, const T* w, const T* bias, Y* y, std::int64_t in,
             std::int64_t out) {
  switch (rows) {
    case 1:
      return product<1>(x, w, bias, y, in, out);
    case 2:
      return product<2>(x, w, bias, y, in, out);
    case 3:
      return product<3>(x, w, bias, y, in, out);
    case 4:
      return product<4>(x, w, bias, y, in, out);
    default:
      break;
  }
  product(4, x, w, bias, y, in, out);
  product(rows - 4, x + 4 * in, w, bias, y + 4 * out, in, out);
}

}  // namespace

bool skinny_supports(std::int64_t rows, DType weights) {
  return rows <= kMaxSkinnyRows && is_float(weights) && weights != DType::f64;
}

void skinny_product(ConstTensor x, ConstTensor w, ConstTensor bias, Tensor y) {
  visit_float(w.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T* b = bias ? bias.ptr<T>() : nullptr;
    const std::int64_t rows = x.rows(), in = w.cols(), out = w.rows();
    if (y.dtype == DType::f32) {
      product(rows, x.ptr<float>(), w.ptr<T>(), b, y.ptr<float>(), in, out);
    } else {
      product(rows, x.ptr<float>(), w.ptr<T>(), b, y.ptr<T>(), in, out);
    }
  });
}

}  // namespace neox
