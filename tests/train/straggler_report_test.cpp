#include "core/train/straggler_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/train/median.h"

namespace neox {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

TEST(Median, IsInterpolated) {
  EXPECT_DOUBLE_EQ(median({}), 0);
  EXPECT_DOUBLE_EQ(median({3}), 3);
  EXPECT_DOUBLE_EQ(median({4, 1}), 2.5);
  EXPECT_DOUBLE_EQ(median({9, 1, 2}), 2);
  EXPECT_DOUBLE_EQ(quantile({5, 1, 2, 3, 4}, 0.25), 2);
  EXPECT_DOUBLE_EQ(quantile({1, 2}, 0.25), 1.25);
  EXPECT_DOUBLE_EQ(quantile({2, 1}, 1), 2);
}

// Ranks whose every step took the same.
std::vector<OwnTimes> even(std::vector<double> seconds) {
  std::vector<OwnTimes> ranks;
  for (const double s : seconds) ranks.push_back({s, s, 0});
  return ranks;
}

ParallelLayout data_parallel(int ranks) {
  ParallelLayout layout;
  layout.data = ranks;
  return layout;
}

std::vector<int> slow_ranks(const StragglerFindings& found) {
  std::vector<int> ranks;
  for (const Straggler& s : found.slow) ranks.push_back(s.rank);
  return ranks;
}

TEST(Stragglers, SummaryOfSteps) {
  const std::vector<OwnTime> steps = {{0.4, 0.1}, {0.1, 0}, {0.3, 0.2}, {0.2, 0}, {9, 0}};
  const OwnTimes times = summarise(steps);
  EXPECT_DOUBLE_EQ(times.median, 0.3);
  EXPECT_DOUBLE_EQ(times.lower, 0.2);
  EXPECT_DOUBLE_EQ(times.data, 0);
  EXPECT_DOUBLE_EQ(summarise({}).median, 0);
}

TEST(Stragglers, AnEvenRunHasNone) {
  const auto found = find_stragglers(even({0.100, 0.104, 0.099, 0.109}), data_parallel(4), 0.1);
  EXPECT_TRUE(found.slow.empty());
  EXPECT_EQ(found.slowest_rank, 3);
  EXPECT_DOUBLE_EQ(found.slowest_ratio, 1.09);
}

TEST(Stragglers, TheSlowRankIsFoundAboveTheThreshold) {
  const auto found = find_stragglers(even({0.1, 0.1, 0.12, 0.1}), data_parallel(4), 0.1);
  ASSERT_EQ(slow_ranks(found), std::vector<int>({2}));
  EXPECT_EQ(found.slow[0].peers, 3);
  EXPECT_DOUBLE_EQ(found.slow[0].peers_median, 0.1);
  EXPECT_EQ(found.slowest_rank, 2);
  EXPECT_TRUE(find_stragglers(even({0.1, 0.1, 0.12, 0.1}), data_parallel(4), 0.25).slow.empty());
}

TEST(Stragglers, TwoRanksCompareWithEachOther) {
  EXPECT_EQ(slow_ranks(find_stragglers(even({0.1, 0.2}), data_parallel(2), 0.1)),
            std::vector<int>({1}));
}

TEST(Stragglers, TheSlowestComesFirst) {
  EXPECT_EQ(
      slow_ranks(find_stragglers(even({0.1, 0.13, 0.1, 0.1, 0.5, 0.1}), data_parallel(6), 0.1)),
      std::vector<int>({4, 1}));
}

// The last stage has the output layer: it takes longer, and is not slow.
TEST(Stragglers, StagesAreNotComparedWithEachOther) {
  ParallelLayout layout;
  layout.data = 2;
  layout.pipe = 2;
  EXPECT_TRUE(find_stragglers(even({0.1, 0.1, 0.3, 0.3}), layout, 0.1).slow.empty());
  EXPECT_EQ(slow_ranks(find_stragglers(even({0.1, 0.2, 0.3, 0.3}), layout, 0.1)),
            std::vector<int>({1}));
  layout.data = 1;
  layout.pipe = 4;
  const auto alone = find_stragglers(even({0.1, 0.9, 0.3, 0.3}), layout, 0.1);
  EXPECT_TRUE(alone.slow.empty());
  EXPECT_DOUBLE_EQ(alone.slowest_ratio, 1);
}

TEST(Stragglers, WhatIsNotSlowInMostStepsIsNotNamed) {
  std::vector<OwnTimes> ranks = even({0.1, 0.1, 0.1, 0.1});
  ranks[1] = {.median = 0.2, .lower = 0.105, .data = 0};  // disturbed in half of the steps
  EXPECT_TRUE(find_stragglers(ranks, data_parallel(4), 0.1).slow.empty());
  ranks[1].lower = 0.12;
  EXPECT_EQ(slow_ranks(find_stragglers(ranks, data_parallel(4), 0.1)), std::vector<int>({1}));
}

TEST(Stragglers, LessThanAMillisecondIsNeverSlow) {
  EXPECT_TRUE(find_stragglers(even({0.0002, 0.001, 0.0002}), data_parallel(3), 0.1).slow.empty());
  EXPECT_FALSE(find_stragglers(even({0.0002, 0.0013, 0.0002}), data_parallel(3), 0.1).slow.empty());
}

TEST(Stragglers, TheMessageNamesTheRankAndItsPlace) {
  ParallelLayout layout;
  layout.tensor = 2;
  layout.data = 2;
  layout.pipe = 2;
  const std::vector<std::string> hosts = {"a", "a", "b", "b", "c", "c", "d", "d"};
  Straggler slow{6, {0.1523, 0.15, 0}, 3, 0.1001};
  EXPECT_THAT(describe(slow, layout, hosts, 100),
              AllOf(HasSubstr("rank 6 (d; tensor 0, data 1, pipe 1) takes 152.3 ms a step where "
                              "the median of the 3 others of its stage is 100.1 ms, in the last "
                              "100 steps"),
                    HasSubstr("--preflight"), Not(HasSubstr("disk"))));
  slow.times.data = 0.05;
  EXPECT_THAT(describe(slow, layout, hosts, 100), HasSubstr("50.0 ms waiting for data"));
}

}  // namespace
}  // namespace neox
