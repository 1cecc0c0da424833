#include "core/optim/loss_scaler.h"

#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace neox {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
const double kNan = std::nan("");
using Verdict = LossScaler::Verdict;

PrecisionConfig fp16() {
  PrecisionConfig config;
  config.precision = DType::f16;
  config.initial_scale_power = 4;
  config.loss_scale_window = 3;
  return config;
}

// The scale before each step and after the last: '.' is a good step, 'x' an overflow.
std::vector<double> curve(const PrecisionConfig& config, const std::string& steps) {
  LossScalerState state;
  LossScaler scaler(config, state);
  std::vector<double> scales;
  for (const char step : steps) {
    scales.push_back(scaler.scale());
    EXPECT_EQ(scaler.end_step(2.5, step == 'x' ? kInfinity : 1.0),
              step == 'x' ? Verdict::overflow : Verdict::fine);
  }
  scales.push_back(scaler.scale());
  return scales;
}
using Scales = std::vector<double>;

TEST(LossScaler, DoublesAfterEveryWindow) {
  EXPECT_EQ(curve(fp16(), "......."), (Scales{16, 16, 16, 32, 32, 32, 64, 64}));
}

TEST(LossScaler, AnOverflowBeginsTheWindowAnew) {
  EXPECT_EQ(curve(fp16(), "..x....x"), (Scales{16, 16, 16, 16, 16, 16, 32, 32, 32}));
}

TEST(LossScaler, HalvesAtTheSecondOverflowAndEachAfterIt) {
  EXPECT_EQ(curve(fp16(), "xxxx"), (Scales{16, 16, 8, 4, 2}));
  // Good steps between them change nothing...
  EXPECT_EQ(curve(fp16(), "x..x..x"), (Scales{16, 16, 16, 16, 8, 8, 8, 4}));
  // ...until there is a window of them.
  EXPECT_EQ(curve(fp16(), "xx...x.x"), (Scales{16, 16, 8, 8, 8, 16, 16, 16, 8}));
}

TEST(LossScaler, OtherHysteresis) {
  PrecisionConfig config = fp16();
  config.hysteresis = 1;
  EXPECT_EQ(curve(config, "x.x...x"), (Scales{16, 8, 8, 4, 4, 4, 8, 4}));
  config.hysteresis = 4;
  EXPECT_EQ(curve(config, "x.xxxx"), (Scales{16, 16, 16, 16, 16, 8, 4}));
}

TEST(LossScaler, ConsecutiveHysteresisForgetsAtEveryGoodStep) {
  PrecisionConfig config = fp16();
  config.consecutive_hysteresis = true;
  EXPECT_EQ(curve(config, "x.x.x"), (Scales{16, 16, 16, 16, 16, 16}));
  EXPECT_EQ(curve(config, "xxx.x.xx"), (Scales{16, 16, 8, 4, 4, 4, 4, 4, 2}));
}

TEST(LossScaler, EndsTheRunWhereItCannotShrink) {
  PrecisionConfig config = fp16();
  config.min_loss_scale = 6;
  LossScalerState state;
  LossScaler scaler(config, state);
  for (const double next : {16.0, 8.0, 6.0}) {  // the last step is a smaller one
    EXPECT_EQ(scaler.end_step(1.0, kNan), Verdict::overflow);
    EXPECT_EQ(scaler.scale(), next);
  }
  EXPECT_EQ(state.overflow_steps, 3);
  EXPECT_EQ(scaler.end_step(1.0, kInfinity), Verdict::stop);
  EXPECT_EQ(scaler.scale(), 6.0);
  EXPECT_EQ(state.overflow_steps, 3);
}

TEST(LossScaler, TheSmallestScaleHasItsHysteresisToo) {
  PrecisionConfig config = fp16();
  config.initial_scale_power = 0;
  EXPECT_EQ(curve(config, "x...x"), (Scales{1, 1, 1, 1, 2, 2}));
  LossScalerState state;
  LossScaler scaler(config, state);
  EXPECT_EQ(scaler.end_step(1.0, kInfinity), Verdict::overflow);
  EXPECT_EQ(scaler.end_step(1.0, kInfinity), Verdict::stop);
}

TEST(LossScaler, HasALargestScale) {
  PrecisionConfig config = fp16();
  config.initial_scale_power = 63;
  config.loss_scale_window = 1;
  EXPECT_EQ(curve(config, "..."), (Scales{0x1p63, 0x1p64, 0x1p64, 0x1p64}));
}

TEST(LossScaler, ALossThatIsNotFiniteIsNotItsMatter) {
  LossScalerState state;
  LossScaler scaler(fp16(), state);
  scaler.end_step(1.0, 1.0);
  const LossScalerState before = state;
  EXPECT_EQ(scaler.end_step(kNan, kNan), Verdict::other);
  EXPECT_EQ(scaler.end_step(kInfinity, kInfinity), Verdict::other);
  EXPECT_EQ(scaler.end_step(kNan, 1.0), Verdict::other);
  EXPECT_EQ(state, before);
}

TEST(LossScaler, AStaticScaleStays) {
  PrecisionConfig config = fp16();
  config.loss_scale = 1000;
  LossScalerState state;
  LossScaler scaler(config, state);
  for (int i = 0; i < 10; ++i) EXPECT_EQ(scaler.end_step(1.0, 1.0), Verdict::fine);
  // It would overflow again: whether the run goes on is for the guards to say.
  EXPECT_EQ(scaler.end_step(1.0, kInfinity), Verdict::other);
  EXPECT_EQ(scaler.scale(), 1000.0);
  EXPECT_EQ(state.overflow_steps, 0);
}

TEST(LossScaler, OtherPrecisionsHaveNone) {
  for (const DType precision : {DType::f32, DType::bf16}) {
    PrecisionConfig config;
    config.precision = precision;
    LossScalerState state;
    LossScaler scaler(config, state);
    EXPECT_FALSE(scaler.active());
    EXPECT_EQ(scaler.scale(), 1.0);
    EXPECT_EQ(scaler.end_step(1.0, kInfinity), Verdict::other);
    EXPECT_EQ(scaler.end_step(1.0, 1.0), Verdict::fine);
    EXPECT_EQ(state, LossScalerState{});
  }
}

TEST(LossScaler, GoesOnWhereTheStateStands) {
  PrecisionConfig config = fp16();
  config.loss_scale_window = 5;
  const std::string steps = "..x....x.....xx.x......";
  for (std::size_t cut = 0; cut <= steps.size(); ++cut) {
    LossScalerState straight, stored;
    const auto run = [&](LossScalerState& state, std::size_t begin, std::size_t end) {
      LossScaler scaler(config, state);
      for (std::size_t i = begin; i < end; ++i) {
        scaler.end_step(1.0, steps[i] == 'x' ? kInfinity : 1.0);
      }
    };
    run(straight, 0, steps.size());
    run(stored, 0, cut);
    LossScalerState loaded = stored;
    run(loaded, cut, steps.size());
    EXPECT_EQ(loaded, straight) << cut;
  }
}

TEST(LossScaler, AStateOfOtherOptions) {
  PrecisionConfig config = fp16();
  const LossScalerState stored{256.0, 7, 40, 3, true};
  LossScalerState state = stored;
  EXPECT_EQ(LossScaler(config, state).scale(), 256.0);
  EXPECT_EQ(state, (LossScalerState{256.0, 2, 40, 3, true}));  // no more than the hysteresis
  config.min_loss_scale = 512;
  state = stored;
  EXPECT_EQ(LossScaler(config, state).scale(), 512.0);
  config = fp16();
  config.loss_scale = 8;
  state = stored;
  EXPECT_EQ(LossScaler(config, state).scale(), 8.0);
  EXPECT_EQ(state, (LossScalerState{8.0, 0, 0, 3, false}));
  // From a static scale to a dynamic one.
  EXPECT_EQ(LossScaler(fp16(), state).scale(), 16.0);
  EXPECT_EQ(state, (LossScalerState{16.0, 2, 0, 3, true}));
  // In other precisions only the schedule's position remains.
  state = stored;
  EXPECT_EQ(LossScaler(PrecisionConfig{}, state).scale(), 1.0);
  EXPECT_EQ(state, (LossScalerState{0.0, 0, 0, 3, false}));
}

// The same machine, as it is told elsewhere: by the numbers of the iterations.
struct ByIterations {
  explicit ByIterations(const PrecisionConfig& c)
      : config(c), scale(std::exp2(double(c.initial_scale_power))), left(c.hysteresis) {}
  bool step(bool overflow) {
    bool possible = true;
    if (overflow) {
      if (left == 1) {
        possible = scale != config.min_loss_scale;
        scale = std::max(scale / 2, config.min_loss_scale);
      } else {
        --left;
      }
      last_overflow = iteration;
    } else {
      if (config.consecutive_hysteresis) left = config.hysteresis;
      if ((iteration - last_overflow) % config.loss_scale_window == 0) {
        left = config.hysteresis;
        scale *= 2;
      }
    }
    ++iteration;
    return possible;
  }
  PrecisionConfig config;
  double scale;
  std::int64_t left, iteration = 0, last_overflow = -1;
};

TEST(LossScaler, FollowsAMachineThatCountsIterations) {
  std::mt19937 random(5);
  int stops = 0, steps = 0;
  for (int run = 0; run < 400; ++run) {
    PrecisionConfig config = fp16();
    config.initial_scale_power = random() % 12;
    config.loss_scale_window = 1 + random() % 9;
    config.hysteresis = 1 + random() % 4;
    config.consecutive_hysteresis = random() % 2 == 1;
    config.min_loss_scale = run % 3 == 0 ? 0.75 : 1.0;
    const unsigned overflows = random() % 60;  // percent
    LossScalerState state;
    LossScaler scaler(config, state);
    ByIterations expected(config);
    for (int i = 0; i < 300; ++i, ++steps) {
      const bool overflow = random() % 100 < overflows;
      const Verdict verdict = scaler.end_step(1.0, overflow ? kNan : 1.0);
      if (!expected.step(overflow)) {
        ASSERT_EQ(verdict, Verdict::stop);
        ++stops;
        break;
      }
      ASSERT_EQ(verdict, overflow ? Verdict::overflow : Verdict::fine);
      ASSERT_EQ(scaler.scale(), std::min(expected.scale, kMaxLossScale));
      if (expected.scale > kMaxLossScale) break;
    }
  }
  EXPECT_GT(stops, 20);
  EXPECT_GT(steps, 20000);
}

}  // namespace
}  // namespace neox
