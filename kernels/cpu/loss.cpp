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

/// d_j = (e^(z_j - lse) - [j == label]) weight; 0 from valid_vocab on. d may be z.
template <class L, class D>
void write_gradient(const L* z, D* d, std::int64_t columns, std::int64_t valid, double lse,
                    std::int32_t label, float weight) {
  const auto at_label =
      (std::exp(static_cast<double>(static_cast<float>(z[label])) - lse) - 1.0) * weight;
  // lse in two parts: one rounded to f32 would shift all probabilities of large logits alike.
  const auto high = static_cast<float>(lse);
  const auto low = static_cast<float>(lse - static_cast<double>(high));
  simd::vector_for(0, valid, [&](auto lanes, std::int64_t i) {
    lanes.store(d + i, simd::exp((lanes.load(z + i) - high) - low) * weight);
  });
  for (std::int64_t i = valid; i < columns; ++i) d[i] = D{};
  d[label] = static_cast<D>(static_cast<float>(at_label));
}

template <class L>
float row_loss(const L* z, std::int64_t valid, std::int32_t label, double& lse) {
  lse = log_sum_exp(z, valid);
  return static_cast<float>(lse - static_cast<double>(static_cast<float>(z[label])));
}

}  // namespace

void CpuBackend::cross_entropy(Stream&, ConstTensor logits, ConstTensor labels, ConstTensor weights,
                               std::int64_t valid_vocab, Tensor losses, Tensor dlogits) const {
  const std::int64_t rows = losses.numel(), columns = logits.cols();
  const auto* label = labels.ptr<std::int32_t>();
  const auto* weight = weights.ptr<float>();
  auto* loss = losses.ptr<float>();
  visit_float(logits.dtype, [&](auto logit_zero) {
    using L = decltype(logit_zero);
    const L* z = logits.ptr<L>();
    const auto run = [&](auto* d) {
      parallel_rows(rows, columns, [&](std::int64_t row) {
        using D = std::remove_pointer_t<decltype(d)>;
        D* gradient = d == nullptr ? nullptr : d + row * columns;
        if (weight[row] == 0.0f) {
          loss[row] = 0.0f;
          if (gradient != nullptr) std::fill_n(gradient, columns, D{});
          return;
        }
        double lse = 0;
        loss[row] = row_loss(z + row * columns, valid_vocab, label[row], lse);
        if (gradient == nullptr) return;
        write_gradient(z + row * columns, gradient, columns, valid_vocab, lse, label[row],
                       weight[row]);
      });
    };
    if (!dlogits) return run(static_cast<float*>(nullptr));
    visit_float(dlogits.dtype,
                [&](auto zero) { run(dlogits.ptr<std::remove_cv_t<decltype(zero)>>()); });
  });
}

}  // namespace neox
