#include "core/optim/lr_schedule.h"

#include <cmath>
#include <random>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/base/error.h"

namespace neox {
namespace {

struct Golden {
  const char* style;
  std::int64_t length;
  double warmup, lr, min_lr;
  std::vector<std::pair<std::int64_t, double>> values;  // steps done, learning rate
};

// Computed with 40-digit decimal arithmetic from the formulas, outside of this program.
const std::vector<Golden> kGolden = {
    {"constant",
     100,
     0.1,
     1e-3,
     0,
     {{0, 0.0001},
      {1, 0.0001},
      {2, 0.00020000000000000001},
      {3, 0.00029999999999999997},
      {10, 0.001},
      {11, 0.001},
      {33, 0.001},
      {50, 0.001},
      {80, 0.001},
      {81, 0.001},
      {90, 0.001},
      {99, 0.001},
      {100, 0.001},
      {101, 0.001},
      {1000, 0.001}}},
    {"linear",
     1000,
     0.01,
     6e-4,
     6e-5,
     {{0, 6.0000000000000002e-05},
      {1, 6.0000000000000002e-05},
      {2, 0.00012},
      {3, 0.00018000000000000001},
      {10, 0.00059999999999999995},
      {11, 0.00059939393939393941},
      {333, 0.00040424242424242425},
      {500, 0.00030303030303030303},
      {800, 0.00012121212121212121},
      {801, 0.00012060606060606061},
      {900, 6.0606060606060605e-05},
      {999, 6.0000000000000002e-05},
      {1000, 6.0000000000000002e-05},
      {1001, 6.0000000000000002e-05},
      {10000, 6.0000000000000002e-05}}},
    {"linear",
     7,
     0.5,
     1,
     0,
     {{0, 0.2857142857142857},
      {1, 0.2857142857142857},
      {2, 0.5714285714285714},
      {3, 0.8571428571428571},
      {4, 0.8571428571428571},
      {5, 0.5714285714285714},
      {6, 0.2857142857142857},
      {7, 0},
      {8, 0},
      {70, 0}}},
    {"cosine",
     1000,
     0.01,
     6e-4,
     6e-5,
     {{0, 6.0000000000000002e-05},
      {1, 6.0000000000000002e-05},
      {2, 0.00012},
      {3, 0.00018000000000000001},
      {10, 0.00059999999999999995},
      {11, 0.0005999986405514988},
      {333, 0.00047016032952870918},
      {500, 0.00033428381023539814},
      {800, 0.00011257703046661418},
      {801, 0.00011207012371697184},
      {900, 7.348079820994475e-05},
      {999, 6.0001359448501221e-05},
      {1000, 6.0000000000000002e-05},
      {1001, 6.0000000000000002e-05},
      {10000, 6.0000000000000002e-05}}},
    {"cosine",
     250,
     0,
     3e-4,
     0,
     {{0, 0.00029999999999999997},
      {1, 0.00029998815663057239},
      {2, 0.00029995262839249497},
      {3, 0.00029989342089608841},
      {83, 0.00022554348024536413},
      {125, 0.00014999999999999999},
      {200, 2.8647450843757887e-05},
      {201, 2.7549112392422405e-05},
      {225, 7.341522555726964e-06},
      {249, 1.184336942758196e-08},
      {250, 2.4000000000000002e-43},
      {251, 2.4000000000000002e-43},
      {2500, 2.4000000000000002e-43}}},
    {"exponential",
     300,
     0.05,
     2e-3,
     1.2e-3,
     {{0, 0.00013333333333333334},
      {1, 0.00013333333333333334},
      {2, 0.00026666666666666668},
      {3, 0.00040000000000000002},
      {15, 0.002},
      {16, 0.0019951427498920535},
      {100, 0.0016265528671551579},
      {150, 0.0014403469508614387},
      {240, 0.0011999999999999999},
      {241, 0.0011999999999999999},
      {270, 0.0011999999999999999},
      {299, 0.0011999999999999999},
      {300, 0.0011999999999999999},
      {301, 0.0011999999999999999},
      {3000, 0.0011999999999999999}}},
    {"inverse_sqrt",
     1000,
     0.02,
     1e-3,
     1e-4,
     {{0, 5e-05},
      {1, 5e-05},
      {2, 0.0001},
      {3, 0.00015},
      {20, 0.001},
      {21, 0.0009759000729485332},
      {80, 0.0005},
      {333, 0.00024507154069793594},
      {500, 0.0002},
      {999, 0.00014149211999266962},
      {1000, 0.0001414213562373095},
      {1001, 0.0001414213562373095},
      {10000, 0.0001414213562373095}}},
    {"wsd",
     1000,
     0.01,
     1e-3,
     1e-5,
     {{0, 0.0001},
      {1, 0.0001},
      {2, 0.00020000000000000001},
      {3, 0.00029999999999999997},
      {10, 0.001},
      {11, 0.001},
      {333, 0.001},
      {500, 0.001},
      {800, 0.001},
      {801, 0.00092999642866253179},
      {900, 0.00029996428662531794},
      {999, 1.2478101508629835e-05},
      {1000, 1.0000000000000001e-05},
      {1001, 1.0000000000000001e-05},
      {10000, 1.0000000000000001e-05}}},
};

ScheduleConfig schedule(const std::string& style, double warmup = 0.01, double min_lr = 0.0) {
  ScheduleConfig config;
  config.lr_decay_style = style;
  config.warmup = warmup;
  config.min_lr = min_lr;
  return config;
}

TEST(LrSchedule, GoldenValues) {
  for (const auto& golden : kGolden) {
    const LrSchedule lr(schedule(golden.style, golden.warmup, golden.min_lr), golden.lr,
                        golden.length);
    EXPECT_EQ(lr.length(), golden.length);
    for (const auto& [step, value] : golden.values) {
      EXPECT_NEAR(lr.at(step), value, 1e-15 * golden.lr) << golden.style << " step " << step;
    }
  }
}

TEST(LrSchedule, FirstTwoStepsOfTheWarmUpAreEqual) {
  const LrSchedule lr(schedule("cosine", 0.05), 1e-3, 200);  // w = 10
  EXPECT_DOUBLE_EQ(lr.at(0), 1e-4);
  EXPECT_DOUBLE_EQ(lr.at(1), 1e-4);
  EXPECT_DOUBLE_EQ(lr.at(2), 2e-4);
  EXPECT_DOUBLE_EQ(lr.at(10), 1e-3);
}

TEST(LrSchedule, LengthFromIterationsOrFraction) {
  ScheduleConfig config = schedule("linear", 0);
  EXPECT_EQ(LrSchedule(config, 1, 1000).length(), 1000);
  config.lr_decay_fraction = 0.75;
  EXPECT_EQ(LrSchedule(config, 1, 1001).length(), 750);  // 750.75
  config.lr_decay_iters = 40;
  EXPECT_EQ(LrSchedule(config, 1, 1001).length(), 40);
  EXPECT_DOUBLE_EQ(LrSchedule(config, 1, 1001).at(30), 0.25);
}

// Whatever the values: rises through the warm-up, never rises afterwards, never leaves
// [min_lr, lr] after it, never exceeds lr, and stays constant from the end on.
TEST(LrSchedule, Properties) {
  std::mt19937_64 random(7);
  std::uniform_real_distribution<double> unit(0, 1);
  const char* styles[] = {"constant", "linear", "cosine", "exponential", "inverse_sqrt", "wsd"};
  for (int trial = 0; trial < 2000; ++trial) {
    ScheduleConfig config = schedule(styles[trial % 6]);
    const auto steps = 1 + static_cast<std::int64_t>(unit(random) * 300);
    const double peak = std::exp(-12 * unit(random));
    config.warmup = trial % 7 == 0 ? 0 : trial % 11 == 0 ? 1 : unit(random);
    config.min_lr = trial % 3 == 0 ? 0 : peak * unit(random);
    config.wsd_decay_fraction = (1 - config.warmup) * unit(random);
    const LrSchedule lr(config, peak, steps);
    const double w = config.warmup * static_cast<double>(steps);
    SCOPED_TRACE(fmt::format("{} steps {} warmup {} lr {} min {}", config.lr_decay_style, steps,
                             config.warmup, peak, config.min_lr));
    for (std::int64_t k = 0; k < steps + 20; ++k) {
      const double now = lr.at(k), next = lr.at(k + 1);
      ASSERT_TRUE(std::isfinite(now) && now >= 0 && now <= peak);
      const bool warming = w > 0 && static_cast<double>(std::min(k, steps)) <= w;
      const bool next_warming = w > 0 && static_cast<double>(std::min(k + 1, steps)) <= w;
      if (!warming) {
        ASSERT_GE(now, config.min_lr);
        ASSERT_LE(next, now * (1 + 1e-15)) << "rose after step " << k;
      }
      if (warming && next_warming) {
        ASSERT_GE(next, now) << "fell during the warm-up, step " << k;
      }
      if (k >= steps) {
        ASSERT_EQ(now, lr.at(steps)) << "changed after the end";
      }
    }
  }
}

TEST(LrSchedule, InverseSquareRootHalvesWithFourTimesTheSteps) {
  const LrSchedule lr(schedule("inverse_sqrt", 0.01, 1.5e-4), 1e-3, 10000);  // w = 100
  EXPECT_DOUBLE_EQ(lr.at(100), 1e-3);
  EXPECT_DOUBLE_EQ(lr.at(400), 5e-4);
  EXPECT_DOUBLE_EQ(lr.at(1600), 2.5e-4);
  EXPECT_DOUBLE_EQ(lr.at(6400), 1.5e-4);  // min_lr
  // Without a warm-up as after one of a single step.
  const LrSchedule cold(schedule("inverse_sqrt", 0), 1e-3, 100);
  EXPECT_DOUBLE_EQ(cold.at(0), 1e-3);
  EXPECT_DOUBLE_EQ(cold.at(1), 1e-3);
  EXPECT_DOUBLE_EQ(cold.at(25), 2e-4);
}

TEST(LrSchedule, WsdIsStableThenCoolsDownToTheMinimum) {
  ScheduleConfig config = schedule("wsd", 0.1, 1e-5);
  config.wsd_decay_fraction = 0.25;
  const LrSchedule lr(config, 1e-3, 400);
  for (std::int64_t k = 40; k <= 300; ++k) EXPECT_EQ(lr.at(k), 1e-3) << k;
  EXPECT_LT(lr.at(301), 1e-3);
  EXPECT_DOUBLE_EQ(lr.at(325), 1e-5 + (1e-3 - 1e-5) * 0.5);  // sqrt(1/4)
  EXPECT_DOUBLE_EQ(lr.at(400), 1e-5);
  EXPECT_DOUBLE_EQ(lr.at(4000), 1e-5);
}

TEST(LrSchedule, ContradictionsAreErrors) {
  const auto message = [](const ScheduleConfig& config, double lr, std::int64_t iters) {
    try {
      LrSchedule(config, lr, iters);
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string();
  };
  using testing::HasSubstr;
  EXPECT_THAT(message(schedule("cosin"), 1e-3, 10), HasSubstr("lr_decay_style is 'cosin'"));
  EXPECT_THAT(message(schedule("cosine", 0.1, 2e-3), 1e-3, 10), HasSubstr("min_lr"));
  EXPECT_THAT(message(schedule("cosine", 0.1, -1), 1e-3, 10), HasSubstr("min_lr"));
  EXPECT_THAT(message(schedule("cosine", 0.1, std::nan("")), 1e-3, 10), HasSubstr("min_lr"));
  EXPECT_THAT(message(schedule("cosine", 1.5), 1e-3, 10), HasSubstr("warmup"));
  EXPECT_THAT(message(schedule("cosine"), 0, 10), HasSubstr("optimizer.lr"));
  EXPECT_THAT(message(schedule("cosine"), 1e-3, 0), HasSubstr("train_iters"));
  EXPECT_THAT(message(schedule("wsd", 0.9), 1e-3, 10), HasSubstr("wsd_decay_fraction"));
  ScheduleConfig config = schedule("linear");
  config.lr_decay_fraction = 0;
  EXPECT_THAT(message(config, 1e-3, 10), HasSubstr("lr_decay_fraction"));
  config.lr_decay_iters = -5;
  EXPECT_THAT(message(config, 1e-3, 10), HasSubstr("lr_decay_iters"));
}

}  // namespace
}  // namespace neox
