// Optimizer steps, sums of squares, the scale for clipping. All read every array once.

#include "kernels/cuda/block.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/optimizer_kernels.h"
#include "kernels/cuda/vectors.cuh"

namespace neox::cuda {
namespace {

/// W: dtype of the compute copy; float: there is none.
template <class Rule, class W>
struct Update {
  Rule rule;
  StepArrays arrays;
  template <int N>
  NEOX_HOST_DEVICE void run(std::int64_t, std::int64_t at) const {
    constexpr int kStates = Rule::kStates;
    float g[N], p[N], a[N] = {}, b[N] = {}, c[N] = {};
    load<N>(arrays.grad + at, g);
    load<N>(arrays.main + at, p);
    if constexpr (kStates > 0) load<N>(arrays.states[0] + at, a);
    if constexpr (kStates > 1) load<N>(arrays.states[1] + at, b);
    if constexpr (kStates > 2) load<N>(arrays.states[2] + at, c);
    const float scale = *arrays.grad_scale;
    for (int i = 0; i < N; ++i) p[i] = rule(g[i] * scale, p[i], a[i], b[i], c[i]);
    if constexpr (kStates > 0) store<N>(arrays.states[0] + at, a);
    if constexpr (kStates > 1) store<N>(arrays.states[1] + at, b);
    if constexpr (kStates > 2) store<N>(arrays.states[2] + at, c);
    store<N>(arrays.main + at, p);
    if constexpr (!std::is_same_v<W, float>) store<N>(static_cast<W*>(arrays.weights) + at, p);
  }
};

template <class W, class Rule>
void launch_update(const Launch& launch, const Rule& rule, const StepArrays& a) {
  constexpr int kN = kVector<W>;
  // null counts as aligned
  const bool whole = aligned(a.grad, a.main, a.states[0], a.states[1], a.states[2], a.weights);
  run<kN>(launch, Update<Rule, W>{rule, a}, flat_extent<kN>(a.n, whole));
}

constexpr int kSumThreads = 256;
constexpr std::int64_t kLeastPiece = 16384;  // elements of a block

/// scratch[b] = the sum of x^2 over block b's piece. A thread adds every 256th group of 4.
struct SquareSum {
  static constexpr int kThreads = kSumThreads;
  const float* x;
  std::int64_t n, piece;  // piece is a multiple of 4
  bool vectors;           // changes how memory is read, not the order of sums
  double* scratch;
  NEOX_HOST_DEVICE void operator()(const Block& block) const {
    const std::int64_t begin = block.x() * piece;
    const std::int64_t end = begin + piece < n ? begin + piece : n;
    double sums[4] = {};
    const std::int64_t step = std::int64_t{block.threads()} * 4;
    for (std::int64_t at = begin + std::int64_t{block.thread()} * 4; at < end; at += step) {
      float v[4] = {};
      if (vectors && at + 4 <= end) {
        load<4>(x + at, v);
      } else {
        for (int i = 0; i < 4; ++i) v[i] = at + i < end ? x[at + i] : 0.0f;
      }
      // The product of two floats is exact in f64.
      for (int i = 0; i < 4; ++i) sums[i] += static_cast<double>(v[i]) * static_cast<double>(v[i]);
    }
    const double sum = block.sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
    if (block.thread() == 0) scratch[block.x()] = sum;
  }
};

/// out (+)= the sum of scratch[0 ... count), one number for each thread.
struct AddUp {
  static constexpr int kThreads = kMostPartialSums;
  const double* scratch;
  std::int64_t count;
  double* out;
  bool accumulate;
  NEOX_HOST_DEVICE void operator()(const Block& block) const {
    const double sum = block.sum(block.thread() < count ? scratch[block.thread()] : 0.0);
    if (block.thread() == 0) *out = accumulate ? *out + sum : sum;
  }
};

struct ClipScale {
  static constexpr int kThreads = kWarp;
  const double* square_sum;
  float max_norm, loss_scale;
  float* scale;
  NEOX_HOST_DEVICE void operator()(const Block& block) const {
    if (block.thread() > 0) return;
    const double norm = sqrt(*square_sum) / loss_scale;
    const double wanted = max_norm > 0.0f ? max_norm / (norm + 1e-6) : 1.0;
    // A norm that is not a number makes a scale that is not one: the step must not look healthy.
    *scale = static_cast<float>((wanted > 1.0 ? 1.0 : wanted) / loss_scale);
  }
};

}  // namespace

void optimizer_step(const Launch& launch, const UpdateRule& rule, const StepArrays& arrays) {
  std::visit(
      [&](const auto& one) {
        if (arrays.weights == nullptr) {
          launch_update<float>(launch, one, arrays);
        } else if (arrays.weights_type == DType::bf16) {
          launch_update<bf16>(launch, one, arrays);
        } else {
          launch_update<f16>(launch, one, arrays);
        }
      },
      rule);
}

void square_sum(const Launch& launch, const float* x, std::int64_t n, double* scratch, double* out,
                bool accumulate) {
  const std::int64_t even = (n + kMostPartialSums - 1) / kMostPartialSums;
  const std::int64_t piece = std::max(kLeastPiece, (even + 3) / 4 * 4);
  const std::int64_t pieces = (n + piece - 1) / piece;
  launch_blocks(launch, {pieces}, kSumThreads, 0, SquareSum{x, n, piece, aligned(x), scratch});
  launch_blocks(launch, {}, AddUp::kThreads, 0, AddUp{scratch, pieces, out, accumulate});
}

void clip_scale(const Launch& launch, const double* square_sum, float max_norm, float loss_scale,
                float* scale) {
  launch_blocks(launch, {}, kWarp, 0, ClipScale{square_sum, max_norm, loss_scale, scale});
}

}  // namespace neox::cuda
