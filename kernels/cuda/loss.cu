// Cross-entropy: a block for each row of logits.

#include <algorithm>
#include <cfloat>
#include <cmath>

#include "kernels/cuda/block.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/loss_kernels.h"
#include "kernels/cuda/vectors.cuh"

namespace neox::cuda {
namespace {

constexpr int kMostThreads = 512;
constexpr int kBlocks =
    2;  // of a multiprocessor at least, so that one's barriers hide behind another
constexpr int kAhead = 4;  // vectors that a thread reads before it works on the first

struct RowStats {
  double lse;     // logsumexp of the valid columns
  double target;  // logit of the label, 0 when it lies elsewhere
};

/// Column of a label here, or -1.
NEOX_HOST_DEVICE inline std::int64_t find(const Logits& of, std::int64_t row) {
  const std::int64_t column = std::int64_t{of.labels[row]} - of.first;
  return column >= 0 && column < of.valid ? column : -1;
}

/// exp(z - top) summed over some of a row, for the largest z so far.
struct RunningSum {
  float top = -FLT_MAX;  // not -inf, which may be a logit
  float sum = 0.0f;
  template <int N>
  NEOX_HOST_DEVICE void add(const float (&z)[N]) {
    float here = z[0];
    for (int i = 1; i < N; ++i) here = fmaxf(here, z[i]);
    const float next = fmaxf(top, here), shrink = expf(top - next);
    float more = 0.0f;
    for (int i = 0; i < N; ++i) more += expf(z[i] - next);
    sum = fmaf(sum, shrink, more);
    top = next;
  }
};

/// Statistics of the row z, the same in all threads. One function for all kernels, not inlined: so
/// they agree to the bit.
template <class L, int N>
NEOX_HOST_DEVICE __noinline__ RowStats row_stats(const Block& block, const L* z, std::int64_t valid,
                                                 std::int64_t target) {
  RunningSum running;
  const std::int64_t whole = valid / N * N;
  const std::int64_t step = std::int64_t{block.threads()} * N;
  for (std::int64_t at = std::int64_t{block.thread()} * N; at < whole; at += kAhead * step) {
    Pack<L, N> parts[kAhead];
    NEOX_UNROLL
    for (int k = 0; k < kAhead; ++k) {
      if (at + k * step < whole) parts[k] = *reinterpret_cast<const Pack<L, N>*>(z + at + k * step);
    }
    NEOX_UNROLL
    for (int k = 0; k < kAhead; ++k) {
      if (at + k * step >= whole) break;
      float v[N];
      for (int i = 0; i < N; ++i) v[i] = to_float(parts[k].item[i]);
      running.add(v);
    }
  }
  const std::int64_t rest = whole + block.thread();  // fewer than N, and N than threads
  if (rest < valid) {
    const float v[1] = {to_float(z[rest])};
    running.add(v);
  }
  const double label = target < 0 ? 0.0 : static_cast<double>(to_float(z[target]));
  const auto top = static_cast<double>(block.max(running.top, -FLT_MAX));
  const double sum =
      block.sum(static_cast<double>(running.sum) * exp(static_cast<double>(running.top) - top));
  block.sync();  // from here on the row may be overwritten
  return {top + log(sum), label};
}

template <class L>
NEOX_HOST_DEVICE inline RowStats row_stats(const Block& block, const Logits& of, bool vectors,
                                           std::int64_t row, std::int64_t target) {
  const L* z = static_cast<const L*>(of.data) + row * of.columns;
  return vectors ? row_stats<L, kVector<L>>(block, z, of.valid, target)
                 : row_stats<L, 1>(block, z, of.valid, target);
}

/// Statistics of a row of all ranks together, from parts [ranks, rows, 2]. Of one rank's they are a
/// copy: e^0 = 1 and log 1 = 0 are exact.
NEOX_HOST_DEVICE inline RowStats combined_stats(const double* parts, std::int64_t ranks,
                                                std::int64_t rows, std::int64_t row) {
  constexpr double kNone = -INFINITY;
  double top = kNone, sum = 0.0, target = 0.0;
  for (std::int64_t rank = 0; rank < ranks; ++rank) {
    top = fmax(top, parts[(rank * rows + row) * 2]);
  }
  for (std::int64_t rank = 0; rank < ranks; ++rank) {
    const double* part = parts + (rank * rows + row) * 2;
    if (part[0] != kNone) sum += exp(part[0] - top);  // -inf - -inf is not a number
    target += part[1];
  }
  return {top + log(sum), target};
}

template <class L>
struct Stats {
  static constexpr int kThreads = kMostThreads, kMinBlocks = kBlocks;
  Logits of;
  bool vectors;
  double* stats;
  NEOX_HOST_DEVICE void operator()(const Block& block) const {
    const std::int64_t row = block.x();
    RowStats result{0.0, 0.0};
    if (of.weights[row] != 0.0f) {
      result = row_stats<L>(block, of, vectors, row, find(of, row));
    }
    if (block.thread() > 0) return;
    stats[2 * row] = result.lse;
    stats[2 * row + 1] = result.target;
  }
};

/// Losses and gradients; N neighbours of the gradient at a time.
template <class L, class D, int N>
struct Gradients {
  static constexpr int kThreads = kMostThreads, kMinBlocks = kBlocks;
  Logits of;
  bool vectors;         // of the statistics
  const double* parts;  // null: the row is whole
  std::int64_t ranks;
  float* losses;
  D* gradient;  // may be null, may be the logits

  NEOX_HOST_DEVICE void operator()(const Block& block) const {
    const std::int64_t row = block.x();
    const float weight = of.weights[row];
    if (weight == 0.0f) {
      if (block.thread() == 0) losses[row] = 0.0f;
      if (gradient != nullptr) write_zeros(block, gradient + row * of.columns);
      return;
    }
    const std::int64_t target = find(of, row);
    const RowStats stats = parts != nullptr ? combined_stats(parts, ranks, of.rows, row)
                                            : row_stats<L>(block, of, vectors, row, target);
    if (block.thread() == 0) losses[row] = static_cast<float>(stats.lse - stats.target);
    if (gradient != nullptr) write(block, row, target, stats, weight);
  }

  NEOX_HOST_DEVICE void write_zeros(const Block& block, D* d) const {
    const float zeros[N] = {};
    const std::int64_t step = std::int64_t{block.threads()} * N;
    for (std::int64_t at = std::int64_t{block.thread()} * N; at < of.columns; at += step) {
      store<N>(d + at, zeros);
    }
  }

  /// A thread writes where it read.
  NEOX_HOST_DEVICE void write(const Block& block, std::int64_t row, std::int64_t target,
                              const RowStats& stats, float weight) const {
    const L* z = static_cast<const L*>(of.data) + row * of.columns;
    D* d = gradient + row * of.columns;
    const std::int64_t step = std::int64_t{block.threads()} * N;
    for (std::int64_t at = std::int64_t{block.thread()} * N; at < of.columns; at += 2 * step) {
      float here[N], next[N] = {};
      const bool two = at + step < of.columns;
      load<N>(z + at, here);
      if (two) load<N>(z + at + step, next);
      differentiate(here, at, target, stats, weight);
      store<N>(d + at, here);
      if (!two) break;
      differentiate(next, at + step, target, stats, weight);
      store<N>(d + at + step, next);
    }
  }

  /// Logits from column `at` on become their gradients: d_j = (e^(z_j - lse) - [j == target])
  /// weight; 0 in the padding.
  NEOX_HOST_DEVICE void differentiate(float (&v)[N], std::int64_t at, std::int64_t target,
                                      const RowStats& stats, float weight) const {
    // lse in two parts: one rounded to f32 would shift all probabilities of large logits alike.
    const auto high = static_cast<float>(stats.lse);
    const auto low = static_cast<float>(stats.lse - static_cast<double>(high));
    NEOX_UNROLL
    for (int i = 0; i < N; ++i) {
      v[i] = at + i < of.valid ? expf((v[i] - high) - low) * weight : 0.0f;
    }
    if (target < at || at + N <= target) return;
    const auto of_target =
        static_cast<float>((exp(stats.target - stats.lse) - 1.0) * static_cast<double>(weight));
    NEOX_UNROLL
    for (int i = 0; i < N; ++i) v[i] = at + i == target ? of_target : v[i];
  }
};

/// Depends on the columns only: the order of a row's sum must not depend on what else is computed.
int threads_of(const Logits& of) {
  const std::int64_t wanted = (of.columns + 7) / 8;
  return static_cast<int>(
      std::clamp<std::int64_t>((wanted + kWarp - 1) / kWarp * kWarp, kWarp, kMostThreads));
}

template <class L>
bool vector_stats(const Logits& of) {
  return of.columns % kVector<L> == 0 && aligned(of.data);
}

template <class L, class D>
void launch_gradients(const Launch& launch, const Logits& of, const double* parts,
                      std::int64_t ranks, float* losses, void* dlogits) {
  constexpr int kN = kVector < L >> kVector<D> ? kVector<L> : kVector<D>;
  auto* d = static_cast<D*>(dlogits);
  const auto start = [&](auto kernel) {
    launch_blocks(launch, {of.rows}, threads_of(of), 0, kernel);
  };
  if (of.columns % kN == 0 && aligned(of.data, dlogits)) {
    start(Gradients<L, D, kN>{of, vector_stats<L>(of), parts, ranks, losses, d});
  } else {
    start(Gradients<L, D, 1>{of, vector_stats<L>(of), parts, ranks, losses, d});
  }
}

}  // namespace

void loss_stats(const Launch& launch, const Logits& of, double* stats) {
  visit_float(of.dtype, [&](auto zero) {
    using L = decltype(zero);
    launch_blocks(launch, {of.rows}, threads_of(of), 0, Stats<L>{of, vector_stats<L>(of), stats});
  });
}

void losses_and_gradients(const Launch& launch, const Logits& of, const double* parts,
                          std::int64_t ranks, float* losses, DType gradient_type, void* dlogits) {
  visit_float(of.dtype, [&](auto l) {
    using L = decltype(l);
    if (gradient_type == of.dtype) {
      return launch_gradients<L, L>(launch, of, parts, ranks, losses, dlogits);
    }
    // Of two types one is f32: the model has one 16-bit type.
    if constexpr (std::is_same_v<L, float>) {
      gradient_type == DType::bf16
          ? launch_gradients<float, bf16>(launch, of, parts, ranks, losses, dlogits)
          : launch_gradients<float, f16>(launch, of, parts, ranks, losses, dlogits);
    } else {
      launch_gradients<L, float>(launch, of, parts, ranks, losses, dlogits);
    }
  });
}

}  // namespace neox::cuda
