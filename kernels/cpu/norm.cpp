#include <cmath>

#include "core/tensor/buffer.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/simd_math.h"

namespace neox {
namespace {

using simd::Floats;

/// Memory of the calling thread that only grows, so that the steady state allocates nothing.
float* scratch(std::int64_t floats) {
  thread_local Buffer buffer;
  const std::size_t bytes = static_cast<std::size_t>(floats) * sizeof(float);
  if (buffer.bytes() < bytes) {
    buffer = Buffer();  // first give back, then take
    buffer = Buffer(bytes, Device{});
  }
  return reinterpret_cast<float*>(buffer.data());
}

template <class T, bool Const>
auto optional_ptr(BasicTensor<Const> t) {
  return t ? t.template ptr<T>() : nullptr;
}

/// Sums over rows, for the gradients of weights: `sums` vectors of `width` floats for each of a few
/// blocks of rows, added up in the order of blocks. The cut depends on the shape only, so results
/// do not depend on the number of threads.
class RowSums {
 public:
  RowSums(std::int64_t rows, std::int64_t width, std::int64_t sums)
      : rows_(rows),
        width_(width),
        sums_(sums),
        block_rows_(std::max<std::int64_t>(16, (rows + 63) / 64)),
        blocks_((rows + block_rows_ - 1) / block_rows_),
        memory_(scratch(blocks_ * sums * width)) {}

  /// f(row, partial) for every row, in parallel; partial holds the block's sums.
  template <class F>
  void for_each_row(F&& f) const {
    parallel_rows(blocks_, block_rows_ * width_, [&](std::int64_t block) {
      float* partial = memory_ + block * sums_ * width_;
      std::fill_n(partial, sums_ * width_, 0.0f);
      const std::int64_t end = std::min(rows_, (block + 1) * block_rows_);
      for (std::int64_t row = block * block_rows_; row < end; ++row) f(row, partial);
    });
  }

  /// out (+)= vector `which` of the sums.
  void finish(std::int64_t which, Tensor out, bool accumulate) const {
    float* to = out.ptr<float>();
    constexpr std::int64_t kColumns = 64;
    parallel_rows((width_ + kColumns - 1) / kColumns, blocks_ * kColumns, [&](std::int64_t c) {
      const std::int64_t end = std::min(width_, (c + 1) * kColumns);
      simd::vector_for(c * kColumns, end, [&](auto lanes, std::int64_t i) {
        Floats sum{};
        for (std::int64_t block = 0; block < blocks_; ++block) {
          sum += lanes.load(memory_ + (block * sums_ + which) * width_ + i);
        }
        lanes.store(to + i, accumulate ? lanes.load(to + i) + sum : sum);
      });
    });
  }

 private:
  std::int64_t rows_, width_, sums_, block_rows_, blocks_;
  float* memory_;
};

template <class T>
float row_mean(const T* x, std::int64_t h) {
  Floats sum{};
  simd::vector_for(0, h, [&](auto lanes, std::int64_t i) { sum += lanes.load(x + i); });
  return simd::sum(sum) / static_cast<float>(h);
}

/// Mean of (x - center)^2.
template <class T>
float row_variance(const T* x, std::int64_t h, float center) {
  Floats sum{};
  simd::vector_for(0, h, [&](auto lanes, std::int64_t i) {
    const Floats d = lanes.keep(lanes.load(x + i) - center);
    sum += d * d;
  });
  return simd::sum(sum) / static_cast<float>(h);
}

template <class T>
void normalize(const T* x, const T* w, const T* b, float mean, float rstd, T* y, std::int64_t h) {
  simd::vector_for(0, h, [&](auto lanes, std::int64_t i) {
    Floats v = (lanes.load(x + i) - mean) * rstd * lanes.load(w + i);
    if (b != nullptr) v += lanes.load(b + i);
    lanes.store(y + i, v);
  });
}

/// Backward of xhat w (+ b) with xhat = (x - mean) rstd, where the mean is a constant 0 for
/// rms_norm. What of it a call computes is known at compile time: nothing else is touched.
template <class T, bool Centered>
struct NormBackward {
  const T *dy, *x, *w;
  const float *mean, *rstd;
  const T* residual_grad;
  T* dx;
  std::int64_t h;

  // With g = dy w: dx = rstd (g - [centered] mean(g) - xhat mean(g xhat)).
  // `partial` [1 or 2, h]: running sums of dy xhat and, with Bias, of dy.
  template <bool Input, bool Weight, bool Bias>
  void row(std::int64_t row, float* partial) const {
    const T *g_row = dy + row * h, *x_row = x + row * h;
    const float m = Centered ? mean[row] : 0.0f, r = rstd[row];
    Floats sum_g{}, sum_gx{};
    simd::vector_for(0, h, [&](auto lanes, std::int64_t i) {
      const Floats d = lanes.load(g_row + i);
      const Floats xhat = (lanes.load(x_row + i) - m) * r;
      if constexpr (Weight) lanes.store(partial + i, lanes.load(partial + i) + d * xhat);
      if constexpr (Bias) lanes.store(partial + h + i, lanes.load(partial + h + i) + d);
      if constexpr (Input) {
        const Floats g = d * lanes.load(w + i);
        if constexpr (Centered) sum_g += g;
        sum_gx += g * xhat;
      }
    });
    if constexpr (Input) {
      const float inverse = 1.0f / static_cast<float>(h);
      write_input(row, Centered ? simd::sum(sum_g) * inverse : 0.0f, simd::sum(sum_gx) * inverse);
    }
  }

  void write_input(std::int64_t row, float mean_g, float mean_gx) const {
    const T *g_row = dy + row * h, *x_row = x + row * h;
    const float m = Centered ? mean[row] : 0.0f, r = rstd[row];
    simd::vector_for(0, h, [&](auto lanes, std::int64_t i) {
      const Floats g = lanes.load(g_row + i) * lanes.load(w + i);
      const Floats xhat = (lanes.load(x_row + i) - m) * r;
      Floats v = (g - mean_g - xhat * mean_gx) * r;
      if (residual_grad != nullptr) v += lanes.load(residual_grad + row * h + i);
      lanes.store(dx + row * h + i, v);
    });
  }

  template <bool Input, bool Bias>
  void all_rows(std::int64_t rows, Tensor dw, Tensor db, bool accumulate) const {
    const RowSums sums(rows, h, Bias ? 2 : 1);
    sums.for_each_row([&](std::int64_t r, float* partial) { row<Input, true, Bias>(r, partial); });
    sums.finish(0, dw, accumulate);
    if constexpr (Bias) sums.finish(1, db, accumulate);
  }

  void run(std::int64_t rows, Tensor dw, Tensor db, bool accumulate) const {
    if (!dw) {
      parallel_rows(rows, h, [&](std::int64_t r) { row<true, false, false>(r, nullptr); });
    } else if (dx == nullptr) {
      db ? all_rows<false, true>(rows, dw, db, accumulate)
         : all_rows<false, false>(rows, dw, db, accumulate);
    } else {
      db ? all_rows<true, true>(rows, dw, db, accumulate)
         : all_rows<true, false>(rows, dw, db, accumulate);
    }
  }
};

}  // namespace

void CpuBackend::layer_norm(Stream&, ConstTensor x, ConstTensor w, ConstTensor b, float eps,
                            Tensor y, Tensor mean, Tensor rstd) const {
  const std::int64_t rows = x.rows(), h = x.cols();
  auto *means = mean.ptr<float>(), *rstds = rstd.ptr<float>();
  visit_float(x.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T *in = x.ptr<T>(), *scale = w.ptr<T>(), *shift = optional_ptr<T>(b);
    T* out = y.ptr<T>();
    parallel_rows(rows, h, [&](std::int64_t row) {
      const T* from = in + row * h;
      means[row] = row_mean(from, h);
      rstds[row] = 1.0f / std::sqrt(row_variance(from, h, means[row]) + eps);
      normalize(from, scale, shift, means[row], rstds[row], out + row * h, h);
    });
  });
}

void CpuBackend::layer_norm_backward(Stream&, ConstTensor dy, ConstTensor x, ConstTensor w,
                                     ConstTensor mean, ConstTensor rstd, ConstTensor residual_grad,
                                     Tensor dx, Tensor dw, Tensor db, bool accumulate) const {
  visit_float(x.dtype, [&](auto zero) {
    using T = decltype(zero);
    const NormBackward<T, true> backward{dy.ptr<T>(),         x.ptr<T>(),
                                         optional_ptr<T>(w),  mean.ptr<float>(),
                                         rstd.ptr<float>(),   optional_ptr<T>(residual_grad),
                                         optional_ptr<T>(dx), x.cols()};
    backward.run(x.rows(), dw, db, accumulate);
  });
}

void CpuBackend::rms_norm(Stream&, ConstTensor x, ConstTensor w, float eps, Tensor y,
                          Tensor rstd) const {
  const std::int64_t rows = x.rows(), h = x.cols();
  auto* rstds = rstd.ptr<float>();
  visit_float(x.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T *in = x.ptr<T>(), *scale = w.ptr<T>();
    T* out = y.ptr<T>();
    parallel_rows(rows, h, [&](std::int64_t row) {
      const T* from = in + row * h;
      rstds[row] = 1.0f / std::sqrt(row_variance(from, h, 0.0f) + eps);
      normalize<T>(from, scale, nullptr, 0.0f, rstds[row], out + row * h, h);
    });
  });
}

void CpuBackend::rms_norm_backward(Stream&, ConstTensor dy, ConstTensor x, ConstTensor w,
                                   ConstTensor rstd, ConstTensor residual_grad, Tensor dx,
                                   Tensor dw, bool accumulate) const {
  visit_float(x.dtype, [&](auto zero) {
    using T = decltype(zero);
    const NormBackward<T, false> backward{dy.ptr<T>(),         x.ptr<T>(),
                                          optional_ptr<T>(w),  nullptr,
                                          rstd.ptr<float>(),   optional_ptr<T>(residual_grad),
                                          optional_ptr<T>(dx), x.cols()};
    backward.run(x.rows(), dw, {}, accumulate);
  });
}

}  // namespace neox
