// The sizes of growing batches against the formula, followed step by step.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/base/error.h"
#include "io/data/batch_sizes.h"

namespace neox {
namespace {

struct Case {
  std::int64_t full, start, increment, samples;
};

class Growing : public ::testing::TestWithParam<Case> {};

TEST_P(Growing, FollowsTheFormulaStepByStep) {
  const auto [full, start, increment, samples] = GetParam();
  const BatchSizes sizes(full, {start, increment, samples});
  const std::int64_t n = (full - start) / increment;
  std::int64_t consumed = 0, before = 0, first_full = -1;
  for (std::int64_t step = 0; step < 2000; ++step) {
    EXPECT_EQ(sizes.after(0, step), consumed) << step;
    const std::int64_t want =
        consumed >= samples ? full : start + increment * (consumed * n / samples);
    ASSERT_EQ(sizes.at(consumed), want) << "step " << step << ", " << consumed << " consumed";
    EXPECT_GE(want, before);
    EXPECT_LE(want, full);
    if (first_full < 0 && want == full) first_full = step;
    // From any point of the run on, too.
    EXPECT_EQ(sizes.after(consumed, 7), sizes.after(0, step + 7));
    before = want;
    consumed += want;
  }
  EXPECT_EQ(sizes.first_full_step(), first_full);
}

INSTANTIATE_TEST_SUITE_P(Rampups, Growing,
                         ::testing::Values(Case{12, 4, 4, 100}, Case{64, 8, 8, 1000},
                                           Case{64, 8, 56, 7}, Case{1536, 32, 32, 65536},
                                           Case{8, 1, 1, 1}, Case{100, 1, 3, 997},
                                           // BLOOM's, on a thousandth of its samples
                                           Case{2048, 16, 16, 9765}));

TEST(BatchSizes, WithoutRampup) {
  const BatchSizes sizes = 24;
  EXPECT_FALSE(sizes.grows());
  EXPECT_EQ(sizes.at(0), 24);
  EXPECT_EQ(sizes.after(5, 3), 77);
  EXPECT_EQ(sizes.first_full_step(), 0);
}

TEST(BatchSizes, BigNumbers) {
  const std::int64_t big = 1'000'000'000'000;
  const BatchSizes sizes(big, {1, 1, big});
  EXPECT_EQ(sizes.at(big / 2), big / 2);
  EXPECT_EQ(sizes.at(big), big);
}

TEST(BatchSizes, RefusesWhatDoesNotFit) {
  for (const BatchRampup& rampup :
       {BatchRampup{4, 3, 10}, BatchRampup{12, 1, 10}, BatchRampup{0, 4, 10}, BatchRampup{4, 0, 10},
        BatchRampup{4, 4, -1}, BatchRampup{16, 4, 10}}) {
    EXPECT_THROW(BatchSizes(12, rampup), Error);
  }
}

}  // namespace
}  // namespace neox
