// Whole runs of neox_train and neox_generate.

#include <cmath>
#include <filesystem>
#include <map>
#include <sstream>

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/app/program_runner.h"

namespace neox::testing {
namespace {

namespace fs = std::filesystem;

constexpr const char* kStep10 = "run/step0000000010.h5";
constexpr const char* kStep20 = "run/step0000000020.h5";

/// Values of one metric by step, from a run's metrics.jsonl.
std::map<std::int64_t, double> metric(const Workspace& workspace, const std::string& file,
                                      const std::string& name) {
  std::map<std::int64_t, double> values;
  std::istringstream lines(workspace.read(file));
  for (std::string line; std::getline(lines, line);) {
    const auto json = nlohmann::json::parse(line);
    if (json.contains(name)) {
      EXPECT_TRUE(values.emplace(json.at("step").get<std::int64_t>(), json.at(name)).second)
          << "step " << json.at("step") << " appears twice in " << file;
    }
  }
  return values;
}

class Training : public ::testing::Test {
 protected:
  Training() {
    make_corpus(workspace_);
    workspace_.write("tiny.ini", tiny_config("../corpus_text_document"));
  }
  std::string train(int ranks, const std::string& options = "") const {
    return mpirun(ranks, "neox_train --config ../tiny.ini " + options);
  }
  Workspace workspace_;
};

class Resume : public Training,
               public ::testing::WithParamInterface<std::tuple<const char*, int>> {};

// Both runs have the same configuration text and relative paths, so the final files must be equal
// byte for byte: weights, optimizer state, position, everything.
TEST_P(Resume, AfterKillIsBitIdentical) {
  const auto [precision, ranks] = GetParam();
  const std::string options = fmt::format("--precision.precision {}", precision);
  workspace_.run_ok(train(ranks, options), "straight");
  // Killed as soon as the checkpoint of step 10 stands; whatever came later is removed.
  workspace_.run(train(ranks, options) +
                     " & pid=$!; while [ ! -e run/step0000000010.h5 ] && kill -0 $pid 2>/dev/null; "
                     "do sleep 0.02; done; pkill -9 -P $pid; kill -9 $pid; wait",
                 "killed");
  ASSERT_TRUE(fs::exists(workspace_.path() / "killed" / kStep10));
  fs::remove(workspace_.path() / "killed" / kStep20);
  const auto resumed = workspace_.run_ok(train(ranks, options), "killed");
  EXPECT_NE(resumed.err.find("resuming from"), std::string::npos) << resumed.err;
  const auto compare = workspace_.run(fmt::format("cmp straight/{} killed/{}", kStep20, kStep20));
  EXPECT_EQ(compare.exit_code, 0) << compare.out << compare.err;
  EXPECT_EQ(metric(workspace_, "straight/run/metrics.jsonl", "train/lm_loss"),
            metric(workspace_, "killed/run/metrics.jsonl", "train/lm_loss"));
}

INSTANTIATE_TEST_SUITE_P(Precisions, Resume,
                         ::testing::Combine(::testing::Values("fp32", "bfloat16"),
                                            ::testing::Values(1, 2)),
                         [](const auto& param) {
                           return fmt::format("{}_{}ranks", std::get<0>(param.param),
                                              std::get<1>(param.param));
                         });

TEST_F(Training, RanksAndMicroBatchesDoNotChangeTheRun) {
  workspace_.run_ok(train(1), "one");
  workspace_.run_ok(train(2), "two");
  workspace_.run_ok(train(4, "--batch.train_micro_batch_size_per_gpu 1"), "four");
  workspace_.run_ok(train(1, "--parallel.checkpoint_activations true"), "recomputed");
  const auto one = metric(workspace_, "one/run/metrics.jsonl", "train/lm_loss");
  ASSERT_EQ(one.size(), 20u);
  double worst = 0;
  for (const char* other : {"two", "four"}) {
    const auto losses =
        metric(workspace_, std::string(other) + "/run/metrics.jsonl", "train/lm_loss");
    ASSERT_EQ(losses.size(), one.size());
    for (const auto& [step, loss] : one) {
      worst = std::max(worst, std::abs(losses.at(step) - loss) / loss);
    }
  }
  std::printf("    worst relative difference of a loss over 20 steps: %.2e (limit 1e-6)\n", worst);
  EXPECT_LE(worst, 1e-6);
  EXPECT_EQ(metric(workspace_, "recomputed/run/metrics.jsonl", "train/lm_loss"), one);
}

// Steps of 4, 4, 4, 8, 8, 8, 8, 12, ... samples: start 4, increment 4, over 40 samples.
TEST_F(Training, GrowingBatchesAreTheSameInEveryLayoutAndAfterAResume) {
  const std::string ramp =
      "--batch.train_batch_size 12 --batch.rampup_batch_size 4,4,40 --train.train_iters 12 ";
  workspace_.run_ok(train(1, ramp), "one");
  workspace_.run_ok(train(2, ramp), "two");
  workspace_.run_ok(train(1, ramp + "--batch.train_micro_batch_size_per_gpu 4"), "rows");
  workspace_.run_ok(train(2, ramp + "--parallel.pipe_parallel_size 2 "
                                    "--batch.train_micro_batch_size_per_gpu 1"),
                    "pipe");
  const auto one = metric(workspace_, "one/run/metrics.jsonl", "train/lm_loss");
  const auto consumed = metric(workspace_, "one/run/metrics.jsonl", "train/consumed_tokens");
  ASSERT_EQ(one.size(), 12u);
  std::int64_t samples = 0;
  for (std::int64_t step = 1; step <= 12; ++step) {
    samples += samples >= 40 ? 12 : 4 + 4 * (samples * 2 / 40);
    EXPECT_EQ(consumed.at(step), static_cast<double>(32 * samples)) << step;
  }
  double worst = 0;
  for (const char* other : {"two", "rows", "pipe"}) {
    const auto losses =
        metric(workspace_, std::string(other) + "/run/metrics.jsonl", "train/lm_loss");
    ASSERT_EQ(losses.size(), one.size()) << other;
    for (const auto& [step, loss] : one) {
      worst = std::max(worst, std::abs(losses.at(step) - loss) / loss);
    }
  }
  std::printf("    worst relative difference of a loss over 12 steps: %.2e (limit 1e-6)\n", worst);
  EXPECT_LE(worst, 1e-6);

  // Left after step 6, in the middle of the ramp-up: 32 samples.
  workspace_.run_ok(train(1, ramp + "--train.exit_interval 6"), "resumed");
  workspace_.run_ok(train(1, ramp), "resumed");
  EXPECT_EQ(metric(workspace_, "resumed/run/metrics.jsonl", "train/lm_loss"), one);
  const auto compare =
      workspace_.run("cmp one/run/step0000000012.h5 resumed/run/step0000000012.h5");
  EXPECT_EQ(compare.exit_code, 0) << compare.out << compare.err;
}

TEST_F(Training, LossFallsAndTheModelWrites) {
  workspace_.run_ok(train(2, "--train.train_iters 150 --train.eval_interval 50"), "a");
  const auto losses = metric(workspace_, "a/run/metrics.jsonl", "validation/lm_loss");
  ASSERT_TRUE(losses.contains(0) && losses.contains(150));
  EXPECT_LT(losses.at(150), losses.at(0) - 2.0);
  const auto sample = workspace_.run_ok(
      "neox_generate --checkpoint.load run --generate.prompt License --generate.maximum_tokens 20 "
      "--generate.sample_output_file sample.jsonl",
      "a");
  EXPECT_TRUE(sample.out.starts_with("License")) << sample.out;
  const auto json = nlohmann::json::parse(workspace_.read("a/sample.jsonl"));
  EXPECT_EQ(json.at("context"), "License");
  EXPECT_EQ(json.at("length"), 20);
  const auto again = workspace_.run_ok(
      "neox_generate --checkpoint.load run --generate.prompt License --generate.maximum_tokens 20 "
      "--generate.recompute true",
      "a");
  EXPECT_EQ(again.out, sample.out);
}

TEST_F(Training, SigtermSavesAndResumes) {
  const auto stopped = workspace_.run(
      train(2, "--train.train_iters 100000") +
          " & pid=$!; while [ ! -e run/step0000000010.h5 ] && kill -0 $pid; do sleep 0.05; "
          "done; "
          "pkill -TERM -P $pid; wait $pid",
      "a");
  EXPECT_EQ(stopped.exit_code, 85);
  EXPECT_NE(stopped.err.find("stop signal received"), std::string::npos) << stopped.err;
  std::int64_t newest = 0;
  for (const auto& entry : fs::directory_iterator(workspace_.path() / "a/run")) {
    const std::string name = entry.path().filename();
    if (name.starts_with("step") && name.ends_with(".h5")) {
      newest = std::max<std::int64_t>(newest, std::stoll(name.substr(4, 10)));
    }
  }
  const auto losses = metric(workspace_, "a/run/metrics.jsonl", "train/lm_loss");
  EXPECT_EQ(losses.rbegin()->first, newest);  // nothing that was trained was lost
  const auto resumed =
      workspace_.run_ok(train(1, fmt::format("--train.train_iters {}", newest + 5)), "a");
  EXPECT_NE(resumed.err.find(fmt::format("step {}", newest)), std::string::npos) << resumed.err;
}

// That it leaves in time is not asserted: a busy machine would decide.
TEST_F(Training, LeavesBeforeTheJobEnds) {
  const std::string endless =
      "--train.train_iters 50000 --train.eval_interval 0 --checkpoint.checkpoint_factor 100000 ";
  const auto stopped = workspace_.run("export SLURM_JOB_END_TIME=$(($(date +%s) + 12)); " +
                                          train(2, endless + "--train.exit_margin 2"),
                                      "a");
  EXPECT_EQ(stopped.exit_code, 85) << stopped.err;
  EXPECT_NE(stopped.err.find("the job ends soon: saving"), std::string::npos) << stopped.err;
  // A job that has ended already: one step.
  const auto again = workspace_.run(train(2, endless + "--train.job_end 1"), "a");
  EXPECT_EQ(again.exit_code, 85) << again.err;
  const auto losses = metric(workspace_, "a/run/metrics.jsonl", "train/lm_loss");
  EXPECT_NE(again.err.find(fmt::format("saving at step {} and leaving", losses.rbegin()->first)),
            std::string::npos);
  EXPECT_NE(again.err.find(fmt::format("(step {}, ", losses.rbegin()->first - 1)),
            std::string::npos);
}

TEST_F(Training, DivergenceEndsWithAnErrorAndWithoutACheckpoint) {
  const auto result = workspace_.run(train(1, "--optimizer.lr 1e30 --train.train_iters 5"), "a");
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_NE(result.err.find("lower optimizer.lr"), std::string::npos) << result.err;
  EXPECT_FALSE(fs::exists(workspace_.path() / "a/run/step0000000005.h5"));
}

TEST_F(Training, FinetuneTakesWeightsOnly) {
  workspace_.run_ok(train(1), "base");
  workspace_.run_ok(train(1,
                          "--checkpoint.load ../base/run --checkpoint.finetune true "
                          "--checkpoint.save tuned --train.train_iters 3"),
                    "tuned");
  const auto base = metric(workspace_, "base/run/metrics.jsonl", "train/lm_loss");
  const auto tuned = metric(workspace_, "tuned/tuned/metrics.jsonl", "train/lm_loss");
  ASSERT_EQ(tuned.size(), 3u);
  EXPECT_LT(tuned.at(1), base.at(1) - 0.5);
}

}  // namespace
}  // namespace neox::testing
