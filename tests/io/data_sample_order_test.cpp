// The arithmetic of skipped samples against walking through the positions one by one.

#include <random>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/base/error.h"
#include "io/data/sample_order.h"

namespace neox {
namespace {

using ::testing::ElementsAre;

bool skips(const std::vector<SampleRange>& ranges, std::int64_t sample) {
  for (const SampleRange& range : ranges) {
    if (range.first <= sample && sample <= range.last) return true;
  }
  return false;
}

TEST(SampleOrder, AgreesWithWalking) {
  std::mt19937_64 random(7);
  for (int trial = 0; trial < 200; ++trial) {
    const auto size = static_cast<std::int64_t>(1 + random() % 60);
    std::vector<SampleRange> ranges;
    for (std::uint64_t i = random() % 6; i > 0; --i) {
      const auto first = static_cast<std::int64_t>(random() % 70);
      ranges.push_back({first, first + static_cast<std::int64_t>(random() % 12)});
    }
    std::int64_t kept = 0;
    for (std::int64_t s = 0; s < size; ++s) kept += skips(ranges, s) ? 0 : 1;
    if (kept == 0) {
      EXPECT_THROW(SampleOrder(size, ranges), Error);
      continue;
    }
    const SampleOrder order(size, ranges);
    EXPECT_EQ(order.kept(), kept);
    std::int64_t before = 0;
    for (std::int64_t p = 0; p < 3 * size; ++p) {
      ASSERT_EQ(order.kept_before(p), before) << text_of(ranges) << " of " << size;
      std::int64_t at = p;
      for (std::int64_t n = 0; n < 5; ++n, ++at) {
        while (skips(ranges, at % size)) ++at;
        ASSERT_EQ(order.find(p, n), at) << text_of(ranges) << " of " << size << " from " << p;
      }
      before += skips(ranges, p % size) ? 0 : 1;
    }
  }
}

TEST(SampleOrder, SamplesOfPositions) {
  const SampleOrder order(100, {});
  EXPECT_THAT(order.samples_of(10, 20), ElementsAre(SampleRange{10, 19}));
  EXPECT_THAT(order.samples_of(90, 105), ElementsAre(SampleRange{0, 4}, SampleRange{90, 99}));
  EXPECT_THAT(order.samples_of(250, 250), ElementsAre());
  EXPECT_THAT(order.samples_of(50, 1000), ElementsAre(SampleRange{0, 99}));
}

TEST(SampleOrder, NothingLeft) {
  const std::vector<SampleRange> all = {{0, 4}, {5, 9}};
  EXPECT_THROW(SampleOrder(10, all), Error);
  EXPECT_EQ(SampleOrder(11, all).find(0, 0), 10);
  EXPECT_EQ(SampleOrder(11, all).find(0, 2), 32);
}

}  // namespace
}  // namespace neox
