#include "core/train/checkpoint_policy.h"

#include <vector>

#include <gtest/gtest.h>

namespace neox {
namespace {

std::vector<std::int64_t> due_steps(const CheckpointConfig& config, std::int64_t last) {
  std::vector<std::int64_t> steps;
  for (std::int64_t s = 0; s <= last; ++s) {
    if (checkpoint_due(config, s)) steps.push_back(s);
  }
  return steps;
}

TEST(CheckpointPolicy, LinearLogAndExtraSteps) {
  CheckpointConfig config;
  EXPECT_TRUE(due_steps(config, 100).empty());
  config.checkpoint_factor = 30;
  EXPECT_EQ(due_steps(config, 100), (std::vector<std::int64_t>{30, 60, 90}));
  config.extra_save_iters = {0, 7, 60};
  EXPECT_EQ(due_steps(config, 65), (std::vector<std::int64_t>{0, 7, 30, 60}));
  config = {};
  config.checkpoint_scale = "log";
  config.checkpoint_factor = 2;
  EXPECT_EQ(due_steps(config, 20), (std::vector<std::int64_t>{1, 2, 4, 8, 16}));
  config.checkpoint_factor = 1.5;
  EXPECT_EQ(due_steps(config, 12), (std::vector<std::int64_t>{1, 2, 3, 5, 7, 11}));
}

TEST(CheckpointPolicy, Milestones) {
  CheckpointConfig config;
  const auto milestones = [&] {
    std::vector<std::int64_t> steps;
    for (std::int64_t s = 0; s <= 20; ++s) {
      if (is_milestone(config, s)) steps.push_back(s);
    }
    return steps;
  };
  config.checkpoint_factor = 1;  // what is due is no milestone
  EXPECT_TRUE(milestones().empty());
  config.extra_save_iters = {0, 7};
  EXPECT_EQ(milestones(), (std::vector<std::int64_t>{0, 7}));
  config.keep_every = 8;
  EXPECT_EQ(milestones(), (std::vector<std::int64_t>{0, 7, 8, 16}));
  config = {};
  config.keep_log = 2.5;
  EXPECT_EQ(milestones(), (std::vector<std::int64_t>{1, 2, 6, 15}));
}

TEST(CheckpointPolicy, BestInterval) {
  EXPECT_NEAR(best_save_interval(20, 3 * 3600), 657.27, 0.01);  // sqrt(2 20 10800)
  EXPECT_NEAR(best_save_interval(1, 3 * 3600), 146.97, 0.01);
}

}  // namespace
}  // namespace neox
