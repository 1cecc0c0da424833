#include <cmath>
#include <limits>
#include <random>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "core/base/error.h"
#include "io/data/blend.h"
#include "tests/io/data_support.h"

namespace neox {
namespace {

using data_testing::error_of;
using ::testing::DoubleNear;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string datasets_of(const BlendMap& map) {
  std::string text;
  for (std::int64_t s = 0; s < map.size(); ++s) text += static_cast<char>('0' + map.dataset(s));
  return text;
}

TEST(Blend, ByHand) {
  // {1, 1, 2}: 2 leads; then 0 and 1 tie and the first wins.
  const auto weights = normalize_weights(std::vector<double>{1, 1, 2});
  const BlendMap map = BlendMap::make(weights, 8);
  EXPECT_EQ(datasets_of(map), "20120212");
  EXPECT_EQ(map.sample(0), 0);
  EXPECT_EQ(map.sample(3), 1);
  EXPECT_EQ(map.sample(7), 3);
  EXPECT_THAT(map.taken(), ElementsAre(2, 2, 4));
}

// Weights whose rounded products decide ties: with a fused multiply-add the orders differ. The
// values are those of the plain double-precision rule.
TEST(Blend, RoundsProductsBeforeSubtracting) {
  const std::vector<double> given = {3, 3, 3, 1};
  const auto weights = normalize_weights(given);
  const std::int64_t n = 400;
  const BlendMap map = BlendMap::make(weights, n);
  std::vector<std::int64_t> taken(weights.size());
  std::int64_t fused_differs = 0;
  for (std::int64_t s = 0; s < n; ++s) {
    const double at = std::max(static_cast<double>(s), 1.0);
    int best = 0, fused = 0;
    double largest = -1e300, fused_largest = -1e300;
    for (std::size_t d = 0; d < weights.size(); ++d) {
      volatile const double product = weights[d] * at;  // rounded to double
      const double behind = product - static_cast<double>(taken[d]);
      if (behind > largest) largest = behind, best = static_cast<int>(d);
      const double exact = std::fma(weights[d], at, -static_cast<double>(taken[d]));
      if (exact > fused_largest) fused_largest = exact, fused = static_cast<int>(d);
    }
    ASSERT_EQ(map.dataset(s), best) << s;
    ASSERT_EQ(map.sample(s), taken[static_cast<std::size_t>(best)]) << s;
    fused_differs += fused != best;
    ++taken[static_cast<std::size_t>(best)];
  }
  EXPECT_GT(fused_differs, 0) << "these weights no longer tell the two roundings apart";
}

// So every dataset that is asked for weighted_num_samples has enough.
TEST(Blend, NeverTakesMoreThanItsShareRoundedUp) {
  std::mt19937 rng(3);
  for (int round = 0; round < 200; ++round) {
    std::vector<double> given(1 + rng() % 12);
    for (auto& weight : given) weight = 1e-3 + static_cast<double>(rng() % 1000);
    const auto weights = normalize_weights(given);
    const auto n = static_cast<std::int64_t>(1 + rng() % 3000);
    const BlendMap map = BlendMap::make(weights, n);
    std::int64_t total = 0;
    for (std::size_t d = 0; d < weights.size(); ++d) {
      EXPECT_LE(map.taken()[d], weighted_num_samples(n, weights[d]));
      EXPECT_LE(std::abs(static_cast<double>(map.taken()[d]) - weights[d] * static_cast<double>(n)),
                static_cast<double>(weights.size()));
      total += map.taken()[d];
    }
    EXPECT_EQ(total, n);
  }
}

TEST(Blend, WeightsAreValidated) {
  for (const double bad : {0.0, -1.0, std::numeric_limits<double>::infinity(), std::nan("")}) {
    EXPECT_THAT(error_of([&] {
                  normalize_weights(std::vector<double>{1, bad});
                }),
                HasSubstr("data weight 2 is"));
  }
  EXPECT_THAT(error_of([&] { normalize_weights({}); }), HasSubstr("no datasets"));
  EXPECT_THAT(error_of([&] {
                normalize_weights(std::vector<double>{1e308, 1e308});
              }),
              HasSubstr("add up to inf"));
  EXPECT_THAT(normalize_weights(std::vector<double>{1, 3}), ElementsAre(0.25, 0.75));
  EXPECT_THAT(error_of([&] { BlendMap::make(std::vector<double>{1}, 0); }),
              HasSubstr("at least one"));
}

TEST(Blend, WeightsByNumDocuments) {
  const std::vector<std::int64_t> two = {10, 90}, three = {10, 30, 60}, one = {5};
  EXPECT_THAT(weights_by_num_documents(one, 1.0), ElementsAre(1.0));
  EXPECT_THAT(weights_by_num_documents(two, 1.0),
              ElementsAre(DoubleNear(0.5, 1e-12), DoubleNear(0.5, 1e-12)));
  // p (1 - p) = 0.09, 0.21, 0.24 of 0.54
  EXPECT_THAT(weights_by_num_documents(three, 1.0),
              ElementsAre(DoubleNear(9.0 / 54, 1e-12), DoubleNear(21.0 / 54, 1e-12),
                          DoubleNear(24.0 / 54, 1e-12)));
  // sqrt(p) (1 - p)
  const double a = std::sqrt(0.1) * 0.9, b = std::sqrt(0.9) * 0.1;
  EXPECT_THAT(weights_by_num_documents(two, 0.5),
              ElementsAre(DoubleNear(a / (a + b), 1e-12), DoubleNear(b / (a + b), 1e-12)));
  EXPECT_THAT(error_of([&] { weights_by_num_documents(two, 0.0); }), HasSubstr("alpha is 0"));
  EXPECT_THAT(error_of([&] {
                weights_by_num_documents(std::vector<std::int64_t>{1, 0}, 1.0);
              }),
              HasSubstr("weight 2 is 0"));
}

TEST(Blend, WeightedNumSamplesHasTheMarginOfGptNeox) {
  EXPECT_EQ(weighted_num_samples(1000, 0.5), 503);  // ceil(502.5)
  EXPECT_EQ(weighted_num_samples(1, 1e-9), 1);
}

TEST(Blend, TheCacheGivesTheSame) {
  data_testing::TempDir dir;
  const auto weights = normalize_weights(std::vector<double>{2, 3, 5});
  const BlendMap memory = BlendMap::make(weights, 1000);
  for (int i = 0; i < 2; ++i) {
    const BlendMap cached = BlendMap::make(weights, 1000, dir.str());
    EXPECT_EQ(datasets_of(cached), datasets_of(memory));
    EXPECT_EQ(cached.taken(), memory.taken());
  }
  const auto other = normalize_weights(std::vector<double>{2, 3, 5.0000001});
  EXPECT_EQ(BlendMap::make(other, 1000, dir.str()).size(), 1000);
  EXPECT_EQ(BlendMap::make(weights, 999, dir.str()).size(), 999);
}

TEST(Blend, ReproducesTheSharedCases) {
  NEOX_NEED_SHARED_DATA(folder, "dataset");
  const auto cases = nlohmann::json::parse(data_testing::read_file(folder + "/blend_cases.json"));
  ASSERT_GE(cases.size(), 2u);
  for (const auto& one : cases) {
    const auto weights = normalize_weights(one["weights"].get<std::vector<double>>());
    const BlendMap map = BlendMap::make(weights, one["size"].get<std::int64_t>());
    for (std::int64_t s = 0; s < map.size(); ++s) {
      EXPECT_EQ(map.dataset(s), one["dataset_index"][static_cast<std::size_t>(s)].get<int>());
      EXPECT_EQ(map.sample(s),
                one["dataset_sample_index"][static_cast<std::size_t>(s)].get<std::int64_t>());
    }
  }
}

}  // namespace
}  // namespace neox
