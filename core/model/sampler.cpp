#include "core/model/sampler.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/base/error.h"

namespace neox {

std::int32_t Sampler::choose(std::span<const float> logits, const SamplingOptions& options,
                             double uniform) {
  const auto best = std::max_element(logits.begin(), logits.end());
  require(best != logits.end() && std::isfinite(*best),
          "the model's logits are not finite: its weights are damaged or training diverged");
  const bool greedy = options.temperature == 0.0 && options.top_k == 0 && options.top_p == 0.0;
  if (greedy) return static_cast<std::int32_t>(best - logits.begin());

  order_.resize(logits.size());
  std::iota(order_.begin(), order_.end(), 0);
  std::stable_sort(order_.begin(), order_.end(), [&](std::int32_t a, std::int32_t b) {
    return logits[static_cast<std::size_t>(a)] > logits[static_cast<std::size_t>(b)];
  });
  std::size_t kept = order_.size();
  const auto logit = [&](std::size_t rank) {
    return double{logits[static_cast<std::size_t>(order_[rank])]};
  };
  if (options.top_k > 0 && options.top_k < static_cast<std::int64_t>(kept)) {
    const double kth = logit(static_cast<std::size_t>(options.top_k) - 1);
    kept = static_cast<std::size_t>(options.top_k);
    while (kept < order_.size() && logit(kept) == kth) ++kept;
  }
  const double temperature = options.temperature > 0.0 ? options.temperature : 1.0;
  probability_.resize(kept);
  double total = 0.0;
  for (std::size_t i = 0; i < kept; ++i) {
    probability_[i] = std::exp((logit(i) - double{*best}) / temperature);
    total += probability_[i];
  }
  if (options.top_p > 0.0) {
    double before = 0.0;
    std::size_t nucleus = 0;
    while (nucleus < kept && before <= options.top_p * total) before += probability_[nucleus++];
    kept = nucleus;
    total = before;
  }
  double rest = uniform * total;
  for (std::size_t i = 0; i + 1 < kept; ++i) {
    rest -= probability_[i];
    if (rest < 0.0) return order_[i];
  }
  return order_[kept - 1];
}

}  // namespace neox
