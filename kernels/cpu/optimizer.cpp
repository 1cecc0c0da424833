// Optimizer steps: bound by memory, so each touches every array once.

#include <algorithm>
#include <array>
#include <cmath>

#include "kernels/cpu/cpu_backend.h"

#ifdef __AVX512F__
#include <immintrin.h>
#endif

namespace neox {
namespace {

// Rounding to the compute copy for whole vectors; NaN stays NaN.
inline void store_rounded(float value, bf16& to) {
  to = bf16(value);
}
inline void store_rounded(float value, float& to) {
  to = value;
}
inline void store_rounded(float value, f16& to) {
#ifdef __AVX512F__
  to.bits = static_cast<std::uint16_t>(_cvtss_sh(value, _MM_FROUND_TO_NEAREST_INT));
#else
  to = f16(value);
#endif
}

struct StepArrays {
  const float* grad;
  float* main;
  std::array<float*, kMostStates> states;
  float grad_scale;
};

// grad and main may be the same memory: an element is read before it is written.
template <class Rule, class W>
void step_range(const Rule& rule, const StepArrays& arrays, W* __restrict weights,
                std::int64_t begin, std::int64_t end) {
  const float *const grad = arrays.grad, scale = arrays.grad_scale;
  float* const main = arrays.main;
  const auto [first, second, third] = arrays.states;
#pragma omp simd
  for (std::int64_t i = begin; i < end; ++i) {
    float a = 0.0f, b = 0.0f, c = 0.0f;
    if constexpr (Rule::kStates > 0) a = first[i];
    if constexpr (Rule::kStates > 1) b = second[i];
    if constexpr (Rule::kStates > 2) c = third[i];
    const float next = rule(grad[i] * scale, main[i], a, b, c);
    if constexpr (Rule::kStates > 0) first[i] = a;
    if constexpr (Rule::kStates > 1) second[i] = b;
    if constexpr (Rule::kStates > 2) third[i] = c;
    main[i] = next;
    if constexpr (!std::is_same_v<W, float>) store_rounded(next, weights[i]);
  }
}

// Work is dealt out in pieces of pages, so that a thread keeps to its own pages.
constexpr std::int64_t kPiece = 16384;

template <class Rule, class W>
void step_parallel(const Rule& rule, const StepArrays& arrays, W* weights, std::int64_t n) {
  const std::int64_t pieces = (n + kPiece - 1) / kPiece;
#pragma omp parallel for schedule(static) if (pieces > 1)
  for (std::int64_t piece = 0; piece < pieces; ++piece) {
    step_range(rule, arrays, weights, piece * kPiece, std::min(n, (piece + 1) * kPiece));
  }
}

// In f64 a product of two floats is exact; 16 running sums keep the vector units busy.
double sum_of_squares(const float* x, std::int64_t n) {
  std::array<double, 32> sums{};
  const std::int64_t whole = n / 32 * 32;
  for (std::int64_t i = 0; i < whole; i += 32) {
#pragma omp simd
    for (std::int64_t j = 0; j < 32; ++j) {
      const double value = x[i + j];
      sums[static_cast<std::size_t>(j)] += value * value;
    }
  }
  for (std::int64_t i = whole; i < n; ++i) {
    sums[static_cast<std::size_t>(i - whole)] += static_cast<double>(x[i]) * x[i];
  }
  double total = 0.0;
  for (const double sum : sums) total += sum;
  return total;
}

}  // namespace

void CpuBackend::optimizer_step(Stream&, const UpdateRule& rule, ConstTensor grad,
                                ConstTensor grad_scale, Tensor main, const UpdateStates& states,
                                Tensor weights) const {
  StepArrays arrays{grad.ptr<float>(), main.ptr<float>(), {}, *grad_scale.ptr<float>()};
  const std::int64_t n = main.numel();
  std::visit(
      [&](const auto& one) {
        for (std::size_t i = 0; i < one.kStates; ++i) arrays.states[i] = states[i].ptr<float>();
        if (!weights)
          return step_parallel<std::decay_t<decltype(one)>, float>(one, arrays, nullptr, n);
        visit_float(weights.dtype, [&](auto zero) {
          using W = decltype(zero);
          require(!(std::is_same_v<W, float>),
                  "internal error: f32 weights need no copy; leave it empty");
          step_parallel(one, arrays, weights.ptr<W>(), n);
        });
      },
      rule);
}

void CpuBackend::square_sum(Stream&, ConstTensor x, Tensor out, bool accumulate) const {
  // Fixed blocks: the result does not depend on the number of threads.
  constexpr std::int64_t kMaxBlocks = 4096, kMinBlock = 16384;
  std::array<double, kMaxBlocks> sums;
  const std::int64_t n = x.numel();
  const std::int64_t block = std::max(kMinBlock, (n + kMaxBlocks - 1) / kMaxBlocks);
  const std::int64_t blocks = (n + block - 1) / block;
  const float* data = x.ptr<float>();
#pragma omp parallel for schedule(static) if (blocks > 1)
  for (std::int64_t b = 0; b < blocks; ++b) {
    sums[static_cast<std::size_t>(b)] =
        sum_of_squares(data + b * block, std::min(block, n - b * block));
  }
  double total = 0.0;
  for (std::int64_t b = 0; b < blocks; ++b) total += sums[static_cast<std::size_t>(b)];
  *out.ptr<double>() = accumulate ? *out.ptr<double>() + total : total;
}

void CpuBackend::clip_scale(Stream&, ConstTensor square_sum, float max_norm, float loss_scale,
                            Tensor scale) const {
  const double norm = std::sqrt(*square_sum.ptr<double>()) / loss_scale;
  const double wanted = max_norm > 0.0f ? max_norm / (norm + 1e-6) : 1.0;
  // A norm that is not a number makes a scale that is not one: the step must not look healthy.
  *scale.ptr<float>() = static_cast<float>((wanted > 1.0 ? 1.0 : wanted) / loss_scale);
}

}  // namespace neox
