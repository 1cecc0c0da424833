#include "core/model/sampler.h"

#include <cmath>
#include <limits>
#include <set>
#include <vector>

#include <gtest/gtest.h>

#include "core/base/error.h"

namespace neox {
namespace {

const std::vector<float> kLogits = {1.0f, 3.0f, 2.0f, 3.0f, -1.0f};

std::set<std::int32_t> reachable(const SamplingOptions& options) {
  Sampler sampler;
  std::set<std::int32_t> tokens;
  for (int i = 0; i < 1000; ++i) tokens.insert(sampler.choose(kLogits, options, i / 1000.0));
  return tokens;
}

TEST(Sampler, AllZeroIsGreedyWithTheSmallestId) {
  EXPECT_EQ(reachable({}), (std::set<std::int32_t>{1}));
}

TEST(Sampler, TopKKeepsTies) {
  EXPECT_EQ(reachable({0.0, 1, 0.0}), (std::set<std::int32_t>{1, 3}));
  EXPECT_EQ(reachable({0.0, 3, 0.0}), (std::set<std::int32_t>{1, 2, 3}));
}

TEST(Sampler, TopPDropsWhatComesAfterTheNucleus) {
  // Probabilities: two of 0.40, one of 0.147, one of 0.054, one of 0.0073.
  EXPECT_EQ(reachable({0.0, 0, 0.3}), (std::set<std::int32_t>{1}));
  EXPECT_EQ(reachable({0.0, 0, 0.5}), (std::set<std::int32_t>{1, 3}));
  EXPECT_EQ(reachable({0.0, 0, 0.9}), (std::set<std::int32_t>{1, 2, 3}));
}

TEST(Sampler, FrequenciesFollowTheTemperature) {
  Sampler sampler;
  const SamplingOptions options{2.0, 0, 0.0};
  std::vector<int> count(kLogits.size());
  constexpr int n = 20000;
  for (int i = 0; i < n; ++i) {
    ++count[static_cast<std::size_t>(sampler.choose(kLogits, options, (i + 0.5) / n))];
  }
  double total = 0;
  for (const float logit : kLogits) total += std::exp(logit / 2.0);
  for (std::size_t i = 0; i < kLogits.size(); ++i) {
    EXPECT_NEAR(count[i] / double{n}, std::exp(kLogits[i] / 2.0) / total, 1e-3);
  }
}

TEST(Sampler, NonFiniteLogitsAreAnError) {
  Sampler sampler;
  const std::vector<float> bad(4, std::numeric_limits<float>::quiet_NaN());
  EXPECT_THROW(sampler.choose(bad, {}, 0.5), Error);
}

}  // namespace
}  // namespace neox
