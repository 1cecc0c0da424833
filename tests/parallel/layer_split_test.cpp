#include "core/parallel/layer_split.h"

#include <algorithm>
#include <numeric>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/base/error.h"

namespace neox {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

double slowest_stage(const std::vector<int>& layers, int stages, double embedding, double head) {
  std::vector<double> cost(static_cast<std::size_t>(stages), 0.0);
  for (std::size_t i = 0; i < layers.size(); ++i) cost[i % cost.size()] += layers[i];
  cost.front() += embedding;
  cost.back() += head;
  return *std::max_element(cost.begin(), cost.end());
}

// The best of all splits, tried one by one.
double best_split(int layers, int virtual_stages, int stages, double embedding, double head,
                  std::vector<int>& chosen) {
  if (static_cast<int>(chosen.size()) + 1 == virtual_stages) {
    chosen.push_back(layers);
    const double cost = slowest_stage(chosen, stages, embedding, head);
    chosen.pop_back();
    return cost;
  }
  const int after = virtual_stages - static_cast<int>(chosen.size()) - 1;
  double best = 1e300;
  for (int here = 1; here <= layers - after; ++here) {
    chosen.push_back(here);
    best =
        std::min(best, best_split(layers - here, virtual_stages, stages, embedding, head, chosen));
    chosen.pop_back();
  }
  return best;
}

TEST(LayerSplit, EqualCostsAreEven) {
  EXPECT_THAT(split_layers(8, 4, 1, 0, 0), ElementsAre(2, 2, 2, 2));
  EXPECT_THAT(split_layers(8, 2, 2, 0, 0), ElementsAre(2, 2, 2, 2));
  EXPECT_THAT(split_layers(7, 1, 1, 0.5, 9), ElementsAre(7));
}

TEST(LayerSplit, LaterStagesGetTheRemainder) {
  EXPECT_THAT(split_layers(10, 4, 1, 0, 0), ElementsAre(2, 2, 3, 3));
  EXPECT_THAT(split_layers(6, 2, 2, 0, 0), ElementsAre(1, 1, 2, 2));
}

TEST(LayerSplit, EmbeddingAndHeadCountAsLayers) {
  // BLOOM's rule: k p - 2 layers when both count as one.
  EXPECT_THAT(split_layers(70, 12, 1, 1, 1), ElementsAre(5, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 5));
  // A vocabulary of 200k at h = 4096 weighs 4.1 layers.
  EXPECT_NEAR(head_cost_in_layers(200000, 4096), 4.07, 0.01);
  EXPECT_THAT(split_layers(32, 4, 1, 0, head_cost_in_layers(200000, 4096)),
              ElementsAre(9, 9, 9, 5));
  EXPECT_THAT(split_layers(12, 4, 1, 0, 100), ElementsAre(3, 4, 4, 1));  // never none
}

TEST(LayerSplit, SlowestStageIsAsFastAsCanBe) {
  int checked = 0;
  for (int stages = 1; stages <= 4; ++stages) {
    for (int chunks = 1; chunks <= 2; ++chunks) {
      for (int layers = stages * chunks; layers <= 11; ++layers) {
        for (const auto& [embedding, head] :
             {std::pair{0.0, 0.0}, {0.0, 1.0}, {1.0, 1.0}, {0.3, 2.6}, {0.0, 4.1}, {5.0, 0.5}}) {
          const std::vector<int> split = split_layers(layers, stages, chunks, embedding, head);
          EXPECT_EQ(std::accumulate(split.begin(), split.end(), 0), layers);
          EXPECT_GE(*std::min_element(split.begin(), split.end()), 1);
          std::vector<int> chosen;
          EXPECT_DOUBLE_EQ(slowest_stage(split, stages, embedding, head),
                           best_split(layers, stages * chunks, stages, embedding, head, chosen))
              << layers << " layers, " << stages << " stages, " << chunks << " chunks";
          ++checked;
        }
      }
    }
  }
  EXPECT_GT(checked, 300);
}

TEST(LayerSplit, RefusesWithTheNumbers) {
  try {
    split_layers(7, 4, 2, 0, 0);
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("7 layers cannot be split over 4 stages x 2 chunks"));
    EXPECT_THAT(error.what(), HasSubstr("at most 3 stages with 2 chunks"));
  }
  EXPECT_THROW(split_layers(0, 1, 1, 0, 0), Error);
  EXPECT_THROW(split_layers(4, 0, 1, 0, 0), Error);
  EXPECT_THROW(split_layers(4, 1, 1, -1, 0), Error);
  EXPECT_THROW(split_layers(4, 1, 1, 0, 1.0 / 0.0), Error);
}

}  // namespace
}  // namespace neox
