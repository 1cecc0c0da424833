// The spike detector against another way of computing it, and at its edges.

#include "core/train/step_guard.h"

#include <cmath>
#include <deque>
#include <limits>
#include <random>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/base/error.h"

namespace neox {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

GuardsConfig guards(std::int64_t window, double loss_z, double norm_z,
                    const std::string& action = "skip") {
  GuardsConfig config;
  config.spike_window = window;
  config.loss_z = loss_z;
  config.grad_norm_z = norm_z;
  config.action = action;
  return config;
}

// A run of steps as the trainer makes them: the limits decide whether one is applied.
class GuardedRun {
 public:
  explicit GuardedRun(const GuardsConfig& config) : guard_(config, state_) {}
  GuardedRun(const GuardsConfig& config, const GuardState& state, std::int64_t step)
      : state_(state), step_(step), guard_(config, state_) {}

  Verdict step(double loss, double norm, std::int64_t tokens = 100) {
    const Engine::StepLimits limits = guard_.limits();
    applied_ = loss <= limits.loss && norm <= limits.grad_norm;  // false for NaN
    applied_ = applied_ && std::isfinite(loss) && std::isfinite(norm);
    StepGuard::Questions questions;
    questions.non_finite = [] { return "the gradient of x (rank 3) is not finite"; };
    questions.newest_checkpoint = [this] { return checkpoint_; };
    return guard_.end_step({++step_, loss, norm, tokens, applied_}, questions);
  }
  void steps(int count, double loss, double norm) {
    for (int i = 0; i < count; ++i) ASSERT_EQ(step(loss, norm), Verdict::fine);
  }

  bool applied() const { return applied_; }
  StepGuard& guard() { return guard_; }
  GuardState& state() { return state_; }
  void set_checkpoint(std::int64_t step) { checkpoint_ = step; }

 private:
  GuardState state_;
  std::int64_t step_ = 0, checkpoint_ = -1;
  bool applied_ = false;
  StepGuard guard_;
};

// A falling noisy curve with jumps, one in about 40 steps.
struct Curve {
  explicit Curve(std::uint64_t seed) : random(seed) {}
  std::pair<double, double> next() {
    ++step;
    double loss = 2.0 + 8.0 / std::sqrt(step) + 0.05 * normal(random);
    double norm = 0.5 + 3.0 / std::sqrt(step) + 0.02 * normal(random);
    if (random() % 40 == 0) loss += 0.5 + 0.01 * static_cast<double>(random() % 200);
    if (random() % 40 == 0) norm *= 1.5;
    return {loss, norm};
  }
  std::mt19937_64 random;
  std::normal_distribution<double> normal;
  double step = 0;
};

// llm.c's way: sums and sums of squares over the window, here in long double.
class ReferenceWindow {
 public:
  explicit ReferenceWindow(std::size_t size) : size_(size) {}
  bool full() const { return values_.size() == size_; }
  double z(double x) const {
    long double sum = 0, squares = 0;
    for (const long double v : values_) {
      sum += v;
      squares += v * v;
    }
    const auto n = static_cast<long double>(values_.size());
    const long double mean = sum / n, variance = squares / n - mean * mean;
    return static_cast<double>((x - mean) / std::sqrt(variance));
  }
  void add(double x) {
    values_.push_back(x);
    if (values_.size() > size_) values_.pop_front();
  }

 private:
  std::size_t size_;
  std::deque<double> values_;
};

TEST(SpikeDetector, AgreesWithTheReferenceOnCurves) {
  int spikes = 0, judged = 0;
  double worst = 0;
  for (const std::size_t window : {4u, 16u, 128u}) {
    Curve curve(window);
    GuardsConfig config = guards(static_cast<std::int64_t>(window), 6, 8);
    config.max_skipped_steps = 1000;
    GuardedRun run(config);
    ReferenceWindow losses(window), norms(window);
    for (int i = 0; i < 1500; ++i) {
      const auto [loss, norm] = curve.next();
      const bool full = losses.full();
      const bool spike = full && (losses.z(loss) > 6 || norms.z(norm) > 8);
      if (full) {
        const double difference =
            std::abs(losses.z(loss) - statistics_of(run.state().losses).z(loss));
        worst = std::max(worst, difference / (1 + std::abs(losses.z(loss))));
      }
      ASSERT_EQ(run.step(loss, norm), spike ? Verdict::skipped : Verdict::fine) << i;
      EXPECT_EQ(run.applied(), !spike);
      ASSERT_EQ(run.guard().loss_z().has_value(), full);
      if (!spike) {
        losses.add(loss);
        norms.add(norm);
      }
      spikes += spike ? 1 : 0;
      judged += full ? 1 : 0;
    }
    EXPECT_EQ(run.state().losses.size(), window);
  }
  std::printf("    %d spikes in %d steps; worst difference of z: %.1e (limit 1e-9)\n", spikes,
              judged, worst);
  EXPECT_LE(worst, 1e-9);
  EXPECT_GT(spikes, 50);
  EXPECT_LT(spikes, judged / 8);
}

TEST(SpikeDetector, ByHand) {
  const std::vector<double> values = {1, 2, 3, 4};
  const WindowStatistics s = statistics_of(values);
  EXPECT_DOUBLE_EQ(s.mean, 2.5);
  EXPECT_DOUBLE_EQ(s.deviation, 1.118033988749895);
  EXPECT_DOUBLE_EQ(s.z(5), 2.23606797749979);
  EXPECT_DOUBLE_EQ(s.limit(2), 4.73606797749979);
  EXPECT_EQ(s.limit(0), kInfinity);  // off
}

TEST(SpikeDetector, JudgesNothingBeforeTheWindowIsFull) {
  GuardedRun run(guards(8, 3, 3));
  for (int i = 0; i < 8; ++i) {
    EXPECT_EQ(run.guard().limits().loss, kInfinity);
    EXPECT_EQ(run.step(i == 5 ? 1e6 : 2.0, 1.0), Verdict::fine);
    EXPECT_FALSE(run.guard().loss_z().has_value());
  }
  EXPECT_LT(run.guard().limits().loss, 2e6);
}

// Rounding is no spike where nothing varies; a real jump is.
TEST(SpikeDetector, ConstantValues) {
  GuardedRun run(guards(8, 6, 6));
  run.steps(8, 2.0, 0.0);
  EXPECT_EQ(run.step(2.0 * (1 + 1e-6), 0.0), Verdict::fine);
  EXPECT_EQ(run.step(2.0 * (1 + 5e-4), 0.0), Verdict::fine);
  EXPECT_EQ(run.step(2.1, 0.0), Verdict::skipped);
  EXPECT_GT(*run.guard().loss_z(), 100);
  // Gradients that are all zero give no scale.
  EXPECT_EQ(run.guard().limits().grad_norm, kInfinity);
  EXPECT_EQ(run.step(2.0, 1e-3), Verdict::fine);
}

TEST(SpikeDetector, LowValuesAreNoSpikes) {
  GuardedRun run(guards(4, 3, 3));
  run.steps(4, 5.0, 5.0);
  EXPECT_EQ(run.step(0.1, 0.1), Verdict::fine);
}

TEST(SpikeDetector, OnlyWhatIsAskedFor) {
  GuardedRun losses(guards(4, 3, 0)), norms(guards(4, 0, 3)), off(guards(4, 0, 0));
  for (GuardedRun* run : {&losses, &norms, &off}) run->steps(4, 2.0, 1.0);
  EXPECT_EQ(losses.step(2.0, 100.0), Verdict::fine);
  EXPECT_EQ(losses.step(3.0, 1.0), Verdict::skipped);
  EXPECT_EQ(norms.step(100.0, 1.0), Verdict::fine);
  EXPECT_EQ(norms.step(2.0, 2.0), Verdict::skipped);
  EXPECT_EQ(off.step(100.0, 100.0), Verdict::fine);
  EXPECT_EQ(off.state(), GuardState{});  // nothing is kept, or stored in checkpoints
}

TEST(SpikeDetector, AStepWithoutLossSaysNothing) {
  GuardedRun run(guards(4, 3, 3));
  run.steps(4, 2.0, 1.0);
  const GuardState before = run.state();
  EXPECT_EQ(run.step(0.0, 0.0, 0), Verdict::fine);
  EXPECT_EQ(run.state(), before);
  EXPECT_FALSE(run.guard().loss_z().has_value());
}

TEST(SpikeDetector, SkippedStepsStayOutOfTheWindow) {
  GuardedRun run(guards(4, 3, 3));
  run.steps(4, 2.0, 1.0);
  const std::vector<double> before = run.state().losses;
  EXPECT_EQ(run.step(9.0, 1.0), Verdict::skipped);
  EXPECT_FALSE(run.applied());
  EXPECT_EQ(run.step(kNan, 1.0), Verdict::skipped);
  EXPECT_EQ(run.state().losses, before);
  EXPECT_EQ(run.state().in_a_row, 2);
  EXPECT_EQ(run.state().spikes_in_a_row, 1);
  EXPECT_EQ(run.state().skipped_steps, 2);
  EXPECT_EQ(run.step(2.0, 1.0), Verdict::fine);
  EXPECT_EQ(run.state().in_a_row, 0);
  EXPECT_EQ(run.state().skipped_steps, 2);
}

TEST(SpikeDetector, WarningsApplyTheStepAndEndWithANewLevel) {
  GuardsConfig config = guards(4, 3, 3, "warn");
  config.max_skipped_steps = 3;
  GuardedRun run(config);
  run.steps(4, 2.0, 1.0);
  for (int i = 0; i < 3; ++i) {
    ::testing::internal::CaptureStderr();
    EXPECT_EQ(run.step(9.0, 1.0), Verdict::fine);
    EXPECT_TRUE(run.applied());
    EXPECT_THAT(::testing::internal::GetCapturedStderr(), HasSubstr("spike: loss 9"));
  }
  EXPECT_TRUE(run.state().losses.empty());
  EXPECT_EQ(run.state().skipped_steps, 0);
  run.steps(10, 9.0, 1.0);  // the usual level now
}

TEST(StepGuard, StopsAfterSkipsInARowWithADiagnosis) {
  GuardsConfig config = guards(4, 3, 3);
  config.max_skipped_steps = 3;
  GuardedRun run(config);
  run.steps(4, 2.0, 1.0);
  EXPECT_EQ(run.step(8.5, 1.0), Verdict::skipped);
  EXPECT_EQ(run.step(kNan, kNan), Verdict::skipped);
  EXPECT_TRUE(run.guard().non_finite());
  EXPECT_EQ(run.step(9.5, 7.0), Verdict::stop);
  EXPECT_FALSE(run.guard().non_finite());
  EXPECT_THAT(
      run.guard().diagnosis(0.25),
      AllOf(HasSubstr("3 steps in a row were skipped, 2 as spikes and 1 as not finite"),
            HasSubstr("loss 9.5 is 37500.0 standard deviations above the mean 2 of 4 steps (limit "
                      "2.0006)"),
            HasSubstr("gradient norm 7 is"),
            HasSubstr("4: 2 / 1, 5: 8.5 / 1, 6: nan / nan, 7: 9.5 / 7"),
            HasSubstr("lower optimizer.lr (now 0.25)"), HasSubstr("data.skip_sample_ranges")));
}

TEST(StepGuard, NonFiniteStepsStopWithoutADetector) {
  GuardedRun run(guards(128, 0, 0));
  for (int i = 0; i < 9; ++i) EXPECT_EQ(run.step(kInfinity, 1.0), Verdict::skipped);
  EXPECT_EQ(run.step(1.0, kNan), Verdict::stop);
  EXPECT_THAT(run.guard().diagnosis(1),
              AllOf(HasSubstr("not finite in 10 steps in a row"),
                    HasSubstr("in the last of them the gradient of x (rank 3) is not finite")));
}

TEST(StepGuard, RewindsToACheckpointUntilThereWereTooMany) {
  GuardsConfig config = guards(4, 3, 3, "rewind");
  config.max_rewinds = 2;
  GuardedRun run(config);
  run.steps(4, 2.0, 1.0);
  EXPECT_EQ(run.step(9.0, 1.0), Verdict::skipped);  // no checkpoint yet
  run.set_checkpoint(4);
  EXPECT_EQ(run.step(9.0, 1.0), Verdict::rewind);
  EXPECT_FALSE(run.applied());
  run.state().rewinds = 2;
  run.state().rewound_samples = {{16, 23}};
  EXPECT_EQ(run.step(9.0, 1.0), Verdict::stop);
  EXPECT_THAT(run.guard().diagnosis(1),
              AllOf(HasSubstr("a spike again after 2 rewinds"), HasSubstr("samples 16-23")));
}

// Interrupted anywhere: the state goes through its text, as in a checkpoint.
TEST(GuardState, GoesOnBitForBit) {
  for (const int cut : {3, 17, 100, 333}) {
    Curve curve(5), same(5);
    GuardsConfig config = guards(16, 4, 4);
    config.max_skipped_steps = 1000;
    GuardedRun straight(config);
    std::optional<GuardedRun> run(std::in_place, config);
    for (int i = 0; i < 400; ++i) {
      if (i == cut) {
        GuardState copy = run->state();
        copy.losses.clear();
        copy.grad_norms.clear();
        read_window(window_text(run->state()), copy);
        EXPECT_EQ(copy, run->state());
        run.emplace(config, copy, i);
      }
      const auto [loss, norm] = curve.next();
      ASSERT_EQ(run->step(loss, norm), straight.step(loss, norm));
    }
    EXPECT_EQ(run->state(), straight.state());
  }
}

TEST(GuardState, ASmallerWindowKeepsTheNewest) {
  GuardedRun run(guards(16, 4, 4));
  for (int i = 0; i < 16; ++i) run.step(2.0 + 0.1 * i, 1.0);
  GuardedRun smaller(guards(4, 4, 4), run.state(), 16);
  smaller.guard().limits();
  EXPECT_EQ(smaller.state().losses.size(), 4u);
  EXPECT_EQ(smaller.state().losses.front(), 2.0 + 0.1 * 12);
}

TEST(GuardState, DamagedWindowsAreRefused) {
  GuardState state;
  for (const char* text : {"1", "1 2", "1\n", "x 2\n", "1 2\n3", "1  2\n", "1 2 3\n"}) {
    EXPECT_THROW(read_window(text, state), Error) << text;
  }
  read_window("", state);
  EXPECT_EQ(state, GuardState{});
}

// What the loss scaler skips neither enters the window nor counts as skipped.
TEST(StepGuard, PassesOverWhatTheLossScalerSkips) {
  GuardedRun run(guards(4, 3, 3));
  run.steps(5, 2.0, 1.0);
  ASSERT_TRUE(run.guard().loss_z());
  const GuardState before = run.state();
  run.guard().pass_over();
  EXPECT_EQ(run.state(), before);
  EXPECT_FALSE(run.guard().loss_z());
  EXPECT_FALSE(run.guard().grad_norm_z());
  EXPECT_EQ(run.step(9.0, 1.0), Verdict::skipped);
}

}  // namespace
}  // namespace neox
