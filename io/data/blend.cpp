// Compiled with -ffp-contract=off (CMakeLists.txt): a fused multiply-add would decide some ties
// differently from GPT-NeoX.
#include "io/data/blend.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "core/base/error.h"

namespace neox {
namespace {

constexpr std::int64_t kMaxU32 = std::numeric_limits<std::uint32_t>::max();

template <class T>
std::span<T> typed(std::span<std::byte> bytes) {
  return {reinterpret_cast<T*>(bytes.data()), bytes.size() / sizeof(T)};
}

template <class Sample>
void fill(std::span<const double> weights, std::span<std::uint16_t> datasets,
          std::span<Sample> samples) {
  std::vector<double> taken(weights.size(), 0.0);  // exact: counts stay below 2^53
  for (std::size_t s = 0; s < datasets.size(); ++s) {
    const double at = std::max(static_cast<double>(s), 1.0);
    std::size_t best = 0;
    double largest = weights[0] * at - taken[0];
    for (std::size_t d = 1; d < weights.size(); ++d) {
      const double behind = weights[d] * at - taken[d];
      if (behind > largest) {
        largest = behind;
        best = d;
      }
    }
    datasets[s] = static_cast<std::uint16_t>(best);
    samples[s] = static_cast<Sample>(taken[best]);
    taken[best] += 1.0;
  }
}

}  // namespace

std::vector<double> normalize_weights(std::span<const double> weights) {
  require(!weights.empty(), "no datasets to blend: give at least one path");
  for (std::size_t d = 0; d < weights.size(); ++d) {
    require(
        std::isfinite(weights[d]) && weights[d] > 0,
        "data weight {} is {}: weights are positive numbers; to leave a dataset out, remove its "
        "path",
        d + 1, weights[d]);
  }
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  require(std::isfinite(sum), "the data weights add up to {}: give smaller ones", sum);
  std::vector<double> normalized(weights.begin(), weights.end());
  for (double& weight : normalized) weight /= sum;
  return normalized;
}

std::vector<double> weights_by_num_documents(std::span<const std::int64_t> documents,
                                             double alpha) {
  require(std::isfinite(alpha) && alpha > 0, "weighted_sampler_alpha is {}; it is a number > 0",
          alpha);
  if (documents.size() == 1) return {1.0};
  std::vector<double> share(documents.begin(), documents.end());
  share = normalize_weights(share);
  std::vector<double> weights(share.size());
  std::transform(share.begin(), share.end(), weights.begin(),
                 [&](double p) { return std::pow(p, alpha); });
  weights = normalize_weights(weights);
  for (std::size_t d = 0; d < weights.size(); ++d) weights[d] *= 1.0 - share[d];
  return normalize_weights(weights);
}

std::int64_t weighted_num_samples(std::int64_t num_samples, double weight) {
  return static_cast<std::int64_t>(std::ceil(static_cast<double>(num_samples) * weight * 1.005));
}

BlendMap BlendMap::make(std::span<const double> weights, std::int64_t num_samples,
                        const std::string& cache_dir, const std::string& name) {
  require(weights.size() >= 1 && weights.size() <= 65535,
          "{} datasets are blended; it can be 1 to 65535", weights.size());
  require(num_samples >= 1, "{} samples of a blend are asked for: at least one is needed",
          num_samples);
  BlendMap map;
  map.size_ = num_samples;
  CacheRequest request;
  request.directory = cache_dir;
  request.name = name;
  request.key = fmt::format("blend 1: {} samples; weights", num_samples);
  for (const double weight : weights) request.key += fmt::format(" {:a}", weight);
  const bool wide = num_samples > kMaxU32;
  request.arrays = {{sizeof(std::uint16_t), num_samples},
                    {wide ? std::size_t{8} : std::size_t{4}, num_samples},
                    {sizeof(std::int64_t), static_cast<std::int64_t>(weights.size())}};
  map.image_ = load_or_build(request, [&](auto arrays) {
    const auto datasets = typed<std::uint16_t>(arrays[0]);
    if (wide) {
      fill(weights, datasets, typed<std::int64_t>(arrays[1]));
    } else {
      fill(weights, datasets, typed<std::uint32_t>(arrays[1]));
    }
    const auto taken = typed<std::int64_t>(arrays[2]);
    for (const std::uint16_t d : datasets) ++taken[d];
  });
  const auto taken = map.image_.array<std::int64_t>(2);
  map.taken_.assign(taken.begin(), taken.end());
  return map;
}

int BlendMap::dataset(std::int64_t s) const {
  return image_.array<std::uint16_t>(0)[static_cast<std::size_t>(s)];
}

std::int64_t BlendMap::sample(std::int64_t s) const {
  const auto at = static_cast<std::size_t>(s);
  return image_.element_size(1) == 8 ? image_.array<std::int64_t>(1)[at]
                                     : std::int64_t{image_.array<std::uint32_t>(1)[at]};
}

}  // namespace neox
