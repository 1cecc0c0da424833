#include "core/train/time_limit.h"

#include <cstdlib>

#include <gtest/gtest.h>

#include "core/base/error.h"

namespace neox {
namespace {

TEST(TimeLimit, LeavesRoomForTheLongestRoundTheSaveAndTheMargin) {
  TimeLimit limit(2000, 100, 1000);
  EXPECT_DOUBLE_EQ(limit.margin(), 100);
  EXPECT_FALSE(limit.reached(1400, 0));   // setting up does not count
  EXPECT_FALSE(limit.reached(1410, 0));   // a round of 10 s
  EXPECT_FALSE(limit.reached(1460, 20));  // one of 50 s, with a validation
  EXPECT_FALSE(limit.reached(1470, 20));
  EXPECT_FALSE(limit.reached(1490, 359));  // 1490 + 50 + 359 + 100 = 1999
  EXPECT_TRUE(limit.reached(1490, 360));
  EXPECT_TRUE(limit.reached(1500, 360));
}

TEST(TimeLimit, TheMarginOfAShortJobIsAQuarterOfIt) {
  TimeLimit limit(1060, 120, 1000);
  EXPECT_DOUBLE_EQ(limit.margin(), 15);
  EXPECT_FALSE(limit.reached(1001, 0));
  EXPECT_TRUE(limit.reached(1044, 0));
}

TEST(TimeLimit, AnEndThatIsPastStopsAtOnce) {
  TimeLimit limit(900, 120, 1000);
  EXPECT_DOUBLE_EQ(limit.margin(), 0);
  EXPECT_TRUE(limit.reached(1000, 0));
}

TEST(TimeLimit, WithoutAnEndItNeverComes) {
  TimeLimit limit(0, 120, 1000);
  EXPECT_TRUE(limit.unlimited());
  EXPECT_FALSE(limit.reached(1e12, 1e6));
}

TEST(TimeLimit, ComesFromTheOptionBeforeTheEnvironment) {
  TrainConfig config;
  ::unsetenv("SLURM_JOB_END_TIME");
  EXPECT_TRUE(time_limit_of(config).unlimited());
  ::setenv("SLURM_JOB_END_TIME", "4102444800", 1);
  EXPECT_DOUBLE_EQ(time_limit_of(config).end(), 4102444800.0);
  EXPECT_DOUBLE_EQ(time_limit_of(config).margin(), config.exit_margin);
  config.job_end = 4102444801;
  EXPECT_DOUBLE_EQ(time_limit_of(config).end(), 4102444801.0);
  config.job_end = -1;
  EXPECT_TRUE(time_limit_of(config).unlimited());
  config.job_end = 0;
  ::setenv("SLURM_JOB_END_TIME", "tomorrow", 1);
  EXPECT_THROW(time_limit_of(config), Error);
  ::unsetenv("SLURM_JOB_END_TIME");
}

}  // namespace
}  // namespace neox
