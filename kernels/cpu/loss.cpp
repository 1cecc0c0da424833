#include <limits>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/simd_math.h"

namespace neox {
namespace {

using simd::Floats;

/// log(sum over j < n of e^z_j), reading memory once: block by block (a block stays in the first
/// cache), with the sum rescaled whenever the maximum grows. Block sums are added in double.
template <class T>
double log_sum_exp(const T* z, std::int64_t n) {
  constexpr std::int64_t kBlock = 2048, kStep = 4 * simd::kLanes;
  float top = std::numeric_limits<float>::lowest();  // not -inf, which may be a logit
  double sum = 0;
  for (std::int64_t begin = 0; begin < n; begin += kBlock) {
    const std::int64_t end = std::min(n, begin + kBlock);
    const std::int64_t whole = begin + (end - begin) / kStep * kStep;
    Floats m[4] = {simd::broadcast(top), simd::broadcast(top), simd::broadcast(top),
                   simd::broadcast(top)};
    for (std::int64_t i = begin; i < whole; i += kStep) {
      for (int k = 0; k < 4; ++k) m[k] = simd::max(simd::load(z + i + k * simd::kLanes), m[k]);
    }
    float block_top = simd::maximum(simd::max(simd::max(m[0], m[1]), simd::max(m[2], m[3])));
    for (std::int64_t i = whole; i < end; ++i) {
      block_top = std::max(block_top, static_cast<float>(z[i]));
    }
    if (block_top > top) {
      sum *= std::exp(static_cast<double>(top) - static_cast<double>(block_top));
      top = block_top;
    }
    Floats s[4] = {};
    for (std::int64_t i = begin; i < whole; i += kStep) {
      for (int k = 0; k < 4; ++k) s[k] += simd::exp(simd::load(z + i + k * simd::kLanes) - top);
    }
    simd::vector_for(whole, end, [&](auto lanes, std::int64_t i) {
      s[0] += lanes.keep(simd::exp(lanes.load(z + i) - top));
    });
    sum += static_cast<double>(simd::sum((s[0] + s[1]) + (s[2] + s[3])));
  }
  return static_cast<double>(top) + std::log(sum);
}

/// The part of a vocabulary's columns that one rank holds.
struct ColumnSlice {
  std::int64_t first, columns, valid;
  /// Column of a label here, or -1 when it lies elsewhere.
  std::int64_t find(std::int64_t label) const {
    const std::int64_t column = label - first;
    return column >= 0 && column < valid ? column : -1;
  }
};

struct RowStats {
  double lse = 0;     ///< logsumexp of the valid columns
  double target = 0;  ///< logit of the label
};

template <class L>
RowStats row_stats(const L* z, const ColumnSlice& slice, std::int64_t target) {
  return {log_sum_exp(z, slice.valid),
          target < 0 ? 0.0 : static_cast<double>(static_cast<float>(z[target]))};
}

/// Statistics of row `row` of all ranks together, from parts [ranks, rows, 2]. Of one rank's they
/// are a copy: e^0 = 1 and log 1 = 0 are exact.
RowStats combined_stats(const double* parts, std::int64_t ranks, std::int64_t rows,
                        std::int64_t row) {
  constexpr double kNone = -std::numeric_limits<double>::infinity();
  double top = kNone, sum = 0, target = 0;
  for (std::int64_t rank = 0; rank < ranks; ++rank) {
    top = std::max(top, parts[(rank * rows + row) * 2]);
  }
  for (std::int64_t rank = 0; rank < ranks; ++rank) {
    const double* part = parts + (rank * rows + row) * 2;
    if (part[0] != kNone) sum += std::exp(part[0] - top);  // -inf - -inf is not a number
    target += part[1];
  }
  return {top + std::log(sum), target};
}

/// d_j = (e^(z_j - lse) - [j == target]) weight; 0 in the padding. target < 0: none here. d may be
/// z.
template <class L, class D>
void write_gradient(const L* z, D* d, const ColumnSlice& slice, const RowStats& stats,
                    std::int64_t target, float weight) {
  // lse in two parts: one rounded to f32 would shift all probabilities of large logits alike.
  const auto high = static_cast<float>(stats.lse);
  const auto low = static_cast<float>(stats.lse - static_cast<double>(high));
  simd::vector_for(0, slice.valid, [&](auto lanes, std::int64_t i) {
    lanes.store(d + i, simd::exp((lanes.load(z + i) - high) - low) * weight);
  });
  for (std::int64_t i = slice.valid; i < slice.columns; ++i) d[i] = D{};
  if (target < 0) return;
  d[target] =
      static_cast<D>(static_cast<float>((std::exp(stats.target - stats.lse) - 1.0) * weight));
}

struct LossArguments {
  ConstTensor logits, labels, weights;
  ColumnSlice slice;
  Tensor losses, dlogits;
};

/// Losses and, where wanted, gradients of all rows; stats_of(logits of the row, row, column of the
/// label here) gives the statistics of a whole row.
template <class StatsOf>
void losses_and_gradients(const LossArguments& args, StatsOf&& stats_of) {
  const std::int64_t rows = args.losses.numel(), columns = args.slice.columns;
  const auto* label = args.labels.ptr<std::int32_t>();
  const auto* weight = args.weights.ptr<float>();
  auto* loss = args.losses.ptr<float>();
  visit_float(args.logits.dtype, [&](auto logit_zero) {
    using L = decltype(logit_zero);
    const L* z = args.logits.ptr<L>();
    const auto run = [&](auto* d) {
      parallel_rows(rows, columns, [&](std::int64_t row) {
        using D = std::remove_pointer_t<decltype(d)>;
        D* gradient = d == nullptr ? nullptr : d + row * columns;
        if (weight[row] == 0.0f) {
          loss[row] = 0.0f;
          if (gradient != nullptr) std::fill_n(gradient, columns, D{});
          return;
        }
        const std::int64_t target = args.slice.find(label[row]);
        const RowStats stats = stats_of(z + row * columns, row, target);
        loss[row] = static_cast<float>(stats.lse - stats.target);
        if (gradient == nullptr) return;
        write_gradient(z + row * columns, gradient, args.slice, stats, target, weight[row]);
      });
    };
    if (!args.dlogits) return run(static_cast<float*>(nullptr));
    visit_float(args.dlogits.dtype,
                [&](auto zero) { run(args.dlogits.ptr<std::remove_cv_t<decltype(zero)>>()); });
  });
}

}  // namespace

void CpuBackend::cross_entropy(Stream&, ConstTensor logits, ConstTensor labels, ConstTensor weights,
                               std::int64_t valid_vocab, Tensor losses, Tensor dlogits) const {
  const ColumnSlice all{0, logits.cols(), valid_vocab};
  losses_and_gradients(
      {logits, labels, weights, all, losses, dlogits},
      [&](const auto* z, std::int64_t, std::int64_t target) { return row_stats(z, all, target); });
}

void CpuBackend::cross_entropy_partial(Stream&, ConstTensor logits, ConstTensor labels,
                                       ConstTensor weights, std::int64_t first_column,
                                       std::int64_t valid_columns, Tensor stats) const {
  const ColumnSlice slice{first_column, logits.cols(), valid_columns};
  const auto* label = labels.ptr<std::int32_t>();
  const auto* weight = weights.ptr<float>();
  auto* out = stats.ptr<double>();
  visit_float(logits.dtype, [&](auto zero) {
    using L = decltype(zero);
    const L* z = logits.ptr<L>();
    parallel_rows(weights.numel(), slice.columns, [&](std::int64_t row) {
      RowStats of_row;
      if (weight[row] != 0.0f) {
        of_row = row_stats(z + row * slice.columns, slice, slice.find(label[row]));
      }
      out[2 * row] = of_row.lse;
      out[2 * row + 1] = of_row.target;
    });
  });
}

void CpuBackend::cross_entropy_combine(Stream&, ConstTensor logits, ConstTensor labels,
                                       ConstTensor weights, std::int64_t first_column,
                                       std::int64_t valid_columns, ConstTensor parts, Tensor losses,
                                       Tensor dlogits) const {
  const std::int64_t ranks = parts.shape[0], rows = losses.numel();
  const auto* of_ranks = parts.ptr<double>();
  losses_and_gradients(
      {logits, labels, weights, {first_column, logits.cols(), valid_columns}, losses, dlogits},
      [&](const auto*, std::int64_t row, std::int64_t) {
        return combined_stats(of_ranks, ranks, rows, row);
      });
}

}  // namespace neox
