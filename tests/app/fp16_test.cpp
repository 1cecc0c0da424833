// Whole runs in fp16: the loss scale in logs, metrics and checkpoints, resumes under other layouts,
// and the simulated GPU.

#include <cmath>
#include <map>
#include <sstream>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/app/program_runner.h"

namespace neox::testing {
namespace {

using ::testing::HasSubstr;
using Values = std::map<std::int64_t, double>;

// Overflows in the first steps, and again when it has grown.
constexpr const char* kFp16 =
    "--precision.precision fp16 --precision.initial_scale_power 27 "
    "--precision.loss_scale_window 5 --train.eval_interval 0 ";

class Fp16Runs : public ::testing::Test {
 protected:
  Fp16Runs() {
    make_corpus(workspace_);
    workspace_.write("tiny.ini", tiny_config("../corpus_text_document"));
  }
  static std::string train(int ranks, const std::string& options) {
    return mpirun(ranks, "neox_train --config ../tiny.ini --logging.tensorboard_dir tb " +
                             std::string(kFp16) + options);
  }
  Values metric(const std::string& folder, const std::string& name) const {
    Values values;
    std::istringstream lines(workspace_.read(folder + "/run/metrics.jsonl"));
    for (std::string line; std::getline(lines, line);) {
      const auto json = nlohmann::json::parse(line);
      if (json.contains(name)) values[json.at("step")] = json.at(name);
    }
    return values;
  }
  double worst_loss(const std::string& folder, const Values& want) const {
    const Values have = metric(folder, "train/lm_loss");
    EXPECT_EQ(have.size(), want.size());
    double worst = 0;
    for (const auto& [step, loss] : want) {
      worst = std::max(worst, std::abs(have.at(step) - loss) / loss);
    }
    return worst;
  }
  Workspace workspace_;
};

TEST_F(Fp16Runs, SayWhatTheScaleDoes) {
  const auto run = workspace_.run_ok(train(1, "--schedule.warmup 0.5"), "run");
  EXPECT_THAT(run.err, HasSubstr("loss scale: 134217728, doubled after 5 steps without overflow"));
  EXPECT_THAT(run.err, HasSubstr("step 1: gradients overflow, step skipped (1 so far); loss scale "
                                 "stays 134217728 (hysteresis: 1 more)"));
  EXPECT_THAT(run.err, HasSubstr("step 2: gradients overflow, step skipped (2 so far); loss scale "
                                 "134217728 -> 67108864"));
  EXPECT_THAT(run.err, HasSubstr("| loss scale 67108864 |"));
  const Values scales = metric("run", "train/loss_scale");
  const Values skips = metric("run", "train/overflow_steps");
  const Values rates = metric("run", "train/learning_rate");
  const Values losses = metric("run", "train/lm_loss");
  const Values guards = metric("run", "train/skipped_steps");
  ASSERT_EQ(scales.size(), 20u);
  ASSERT_EQ(rates.size(), 20u);
  EXPECT_EQ(scales.at(1), 0x1p27);
  EXPECT_EQ(scales.at(3), 0x1p26);
  EXPECT_GE(skips.at(20), 4);
  EXPECT_LE(skips.at(20), 14);
  EXPECT_LT(losses.at(20), losses.at(1));
  for (std::int64_t step = 1; step <= 20; ++step) {
    EXPECT_EQ(guards.at(step), 0.0);  // none of them is the guards' matter
    // Ten steps of warm-up that overflows do not use up.
    const double done = static_cast<double>(step - 1) - (step > 1 ? skips.at(step - 1) : 0.0);
    if (done > 10) continue;
    EXPECT_NEAR(rates.at(step), 0.01 * std::max(1.0, done) / 10, 1e-9) << step;
  }
  // AdamW has counted the steps that were done.
  const auto shown =
      workspace_.run_ok("neox_convert inspect run/step0000000020.h5 --summary", "run").out;
  EXPECT_THAT(shown, HasSubstr(fmt::format("adam_step={} ", 20 - skips.at(20))));
  EXPECT_THAT(shown, HasSubstr("/loss_scaler: dynamic=1 good_steps="));
  EXPECT_THAT(shown, HasSubstr(fmt::format("overflow_steps={} scale=", skips.at(20))));
}

// Cut off among the overflows and later, under every layout: the same file, byte for byte.
TEST_F(Fp16Runs, ResumeExactly) {
  const std::pair<int, const char*> layouts[] = {
      {1, ""}, {2, "--parallel.zero_stage 3 "}, {2, "--parallel.model_parallel_size 2 "}};
  int number = 0;
  for (const auto& [ranks, layout] : layouts) {
    const std::string straight = fmt::format("straight{}", number);
    const std::string resumed = fmt::format("resumed{}", number++);
    workspace_.run_ok(train(ranks, layout), straight);
    for (const int interval : {3, 8}) {
      workspace_.run_ok(train(ranks, fmt::format("{} --train.exit_interval {}", layout, interval)),
                        resumed);
    }
    workspace_.run_ok(train(ranks, layout), resumed);
    const auto compare = workspace_.run(
        fmt::format("cmp {}/run/step0000000020.h5 {}/run/step0000000020.h5", straight, resumed));
    EXPECT_EQ(compare.exit_code, 0) << layout << compare.out << compare.err;
    for (const char* name : {"train/lm_loss", "train/loss_scale", "train/learning_rate"}) {
      EXPECT_EQ(metric(straight, name), metric(resumed, name)) << layout << name;
    }
  }
}

TEST_F(Fp16Runs, GoOnUnderOtherLayouts) {
  workspace_.run_ok(train(1, ""), "one");
  workspace_.run_ok(train(1, "--train.exit_interval 5"), "mixed");
  workspace_.run_ok(train(2, "--parallel.pipe_parallel_size 2 --train.exit_interval 9"), "mixed");
  workspace_.run_ok(train(2, "--parallel.model_parallel_size 2 --train.exit_interval 14"), "mixed");
  workspace_.run_ok(train(4, "--parallel.zero_stage 2 --batch.train_micro_batch_size_per_gpu 1"),
                    "mixed");
  const double difference = worst_loss("mixed", metric("one", "train/lm_loss"));
  std::printf("    worst relative difference of a loss over 20 steps: %.1e\n", difference);
  EXPECT_LE(difference, 2e-3);
  EXPECT_EQ(metric("mixed", "train/loss_scale"), metric("one", "train/loss_scale"));
  const auto diff = workspace_.run(
      "neox_convert diff one/run/step0000000020.h5 mixed/run/step0000000020.h5 --tolerance 1");
  EXPECT_EQ(diff.out.find("/loss_scaler"), std::string::npos) << diff.out;
  const auto other = workspace_.run(
      "neox_convert diff one/run/step0000000020.h5 one/run/step0000000010.h5 --tolerance 1");
  EXPECT_THAT(other.out, HasSubstr("/loss_scaler overflow_steps: "));
}

TEST_F(Fp16Runs, EndAtTheSmallestScale) {
  const auto run = workspace_.run(train(2, "--precision.min_loss_scale 67108864 "), "run");
  EXPECT_EQ(run.exit_code, 1);
  EXPECT_THAT(run.err,
              HasSubstr("step 3: the gradient is not finite at the loss scale 67108864, and "
                        "precision.min_loss_scale (67108864) allows no smaller one: the gradient "
                        "of "));
  EXPECT_THAT(run.err, HasSubstr("What to do: lower optimizer.lr"));
}

// With a static scale the guards decide: so many skipped steps in a row, and the run ends.
TEST_F(Fp16Runs, AStaticScaleIsTheGuardsMatter) {
  const auto run = workspace_.run(
      train(1, "--precision.loss_scale 134217728 --guards.max_skipped_steps 3"), "high");
  EXPECT_EQ(run.exit_code, 1);
  EXPECT_THAT(run.err, HasSubstr("loss scale: 134217728, static"));
  EXPECT_THAT(run.err, HasSubstr("the gradient was not finite in 3 steps in a row"));
  const auto fine = workspace_.run_ok(train(1, "--precision.loss_scale 1000"), "fine");
  EXPECT_THAT(fine.err, HasSubstr("| loss scale 1000 |"));
  EXPECT_EQ(metric("fine", "train/skipped_steps").at(20), 0.0);
}

// From a run in another precision, and back to one.
TEST_F(Fp16Runs, PrecisionsMayChange) {
  workspace_.run_ok(train(1, "--train.exit_interval 8"), "run");
  const double skipped = metric("run", "train/overflow_steps").at(8);
  ASSERT_GT(skipped, 2);
  const std::string other =
      mpirun(1,
             "neox_train --config ../tiny.ini --train.eval_interval 0 --precision.precision "
             "bfloat16 --train.exit_interval 12");
  EXPECT_EQ(workspace_.run_ok(other, "run").err.find("loss scale"), std::string::npos);
  // The schedule goes on where it stood: it does not catch up on the skipped steps.
  const auto again = workspace_.run_ok(train(1, "--train.exit_interval 16"), "run");
  EXPECT_THAT(again.err, HasSubstr("loss scale: 134217728, doubled"));
  EXPECT_THAT(again.err, HasSubstr(fmt::format("step skipped ({} so far)", skipped + 1)));
}

TEST_F(Fp16Runs, OnASimulatedGpu) {
  const std::string small = "--train.train_iters 8 ";
  const auto probe =
      workspace_.run(train(1, "--train.train_iters 1 --system.device simulated"), "probe");
  if (probe.err.find("built without CUDA") != std::string::npos) GTEST_SKIP() << "no CUDA engine";
  workspace_.run_ok(train(1, small + "--system.device cpu"), "cpu");
  const Values want = metric("cpu", "train/lm_loss");
  const std::pair<int, const char*> layouts[] = {
      {1, ""},
      {2, "--parallel.model_parallel_size 2 "},
      {2, "--parallel.zero_stage 3 --parallel.gradient_reduce_dtype fp16 "}};
  int number = 0;
  for (const auto& [ranks, layout] : layouts) {
    const std::string folder = fmt::format("simulated{}", number++);
    workspace_.run_ok(
        train(ranks, small + layout + "--system.device simulated --system.transport mpi"), folder);
    const double difference = worst_loss(folder, want);
    std::printf("    %d ranks %s: worst relative difference of losses %.1e\n", ranks, layout,
                difference);
    EXPECT_LE(difference, 1e-3);
    EXPECT_EQ(metric(folder, "train/loss_scale"), metric("cpu", "train/loss_scale")) << layout;
  }
}

}  // namespace
}  // namespace neox::testing
