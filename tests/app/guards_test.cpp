// Whole runs over data with a poisoned step: what each action does, in several layouts, and that an
// interrupted run does the same.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <random>
#include <sstream>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/app/job.h"
#include "tests/app/program_runner.h"

namespace neox::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr int kSteps = 34;
constexpr int kPoisoned = 27;  // its 8 samples are 208 ... 215
constexpr const char* kLast = "run/step0000000034.h5";
constexpr const char* kGuards =
    "--guards.spike_window 10 --guards.loss_z 8 --guards.grad_norm_z 30 ";

using Values = std::map<std::int64_t, double>;

class Guards : public ::testing::Test {
 protected:
  Guards() {
    make_corpus(workspace_);
    workspace_.write("tiny.ini", tiny_config("../corpus_text_document"));
  }
  // Letters have ids below 128: tokens of 200 ... 499 have not been seen before.
  void poison(std::int64_t step) {
    workspace_.run_ok(train(1, "--logging.log_samples true --checkpoint.checkpoint_factor 0"),
                      "clean");
    std::ifstream index(workspace_.file("corpus_text_document.idx"), std::ios::binary);
    const std::string idx(std::istreambuf_iterator<char>(index), {});
    std::int64_t documents = 0;
    std::memcpy(&documents, idx.data() + 18, sizeof documents);
    std::fstream tokens(workspace_.file("corpus_text_document.bin"),
                        std::ios::binary | std::ios::in | std::ios::out);
    std::mt19937 random(1);
    int written = 0;
    for (const auto& line : lines("clean/run/samples.jsonl")) {
      if (line.at("step") != step) continue;
      for (const auto& origin : line.at("origins").at(0)) {
        const auto document = origin.at(1).get<std::int64_t>();
        const auto offset = origin.at(2).get<std::int64_t>();
        std::int32_t length = 0;
        std::int64_t at = 0;  // bytes
        std::memcpy(&length, idx.data() + 34 + 4 * document, sizeof length);
        std::memcpy(&at, idx.data() + 34 + 4 * documents + 8 * document, sizeof at);
        tokens.seekp(at + 2 * offset);
        for (std::int64_t t = offset; t < std::min<std::int64_t>(offset + 32, length); ++t) {
          const auto token = static_cast<std::uint16_t>(200 + random() % 300);
          tokens.write(reinterpret_cast<const char*>(&token), sizeof token);
          ++written;
        }
      }
    }
    ASSERT_TRUE(tokens.good());
    ASSERT_GT(written, 100);
  }
  std::string train(int ranks, const std::string& options = "") const {
    return mpirun(ranks, fmt::format("neox_train --config ../tiny.ini --train.eval_interval 0 "
                                     "--train.train_iters {} ",
                                     kSteps) +
                             options);
  }
  std::vector<nlohmann::json> lines(const std::string& file) const {
    std::vector<nlohmann::json> result;
    std::istringstream in(workspace_.read(file));
    for (std::string line; std::getline(in, line);) result.push_back(nlohmann::json::parse(line));
    return result;
  }
  Values metric(const std::string& folder, const std::string& name = "train/lm_loss") const {
    Values values;
    for (const auto& line : lines(folder + "/run/metrics.jsonl")) {
      if (!line.contains(name)) continue;
      EXPECT_TRUE(values.emplace(line.at("step"), line.at(name)).second) << line;
    }
    return values;
  }
  std::map<std::int64_t, std::string> samples(const std::string& folder) const {
    std::map<std::int64_t, std::string> ids;
    for (const auto& line : lines(folder + "/run/samples.jsonl")) {
      EXPECT_TRUE(ids.emplace(line.at("step"), line.at("ids").dump()).second) << line;
    }
    return ids;
  }
  /// Steps after which the count of skipped steps was higher than before.
  std::vector<std::int64_t> skipped(const std::string& folder) const {
    std::vector<std::int64_t> steps;
    double before = 0;
    for (const auto& [step, count] : metric(folder, "train/skipped_steps")) {
      if (count > before) steps.push_back(step);
      before = count;
    }
    return steps;
  }
  void expect_equal_files(const std::string& a, const std::string& b) const {
    const auto compare = workspace_.run(fmt::format("cmp {}/{} {}/{}", a, kLast, b, kLast));
    EXPECT_EQ(compare.exit_code, 0) << compare.out << compare.err;
  }
  /// Weights and optimizer state, bit for bit.
  void expect_equal_tensors(const std::string& a, const std::string& b) const {
    const auto diff =
        workspace_.run(fmt::format("neox_convert diff {}/{} {}/{}", a, kLast, b, kLast));
    EXPECT_THAT(diff.out, AllOf(ContainsRegex("tensors: [0-9]+ equal\n"),
                                Not(HasSubstr("elements differ")), Not(HasSubstr("only in"))))
        << diff.err;
  }
  Workspace workspace_;
};

TEST_F(Guards, WarningsChangeNothing) {
  poison(kPoisoned);
  workspace_.run_ok(train(1), "off");
  const auto run = workspace_.run_ok(train(1, std::string(kGuards) + "--guards.action warn"), "on");
  EXPECT_THAT(run.err, ContainsRegex(fmt::format("step {}: spike: loss [0-9.]+ is [0-9.]+ standard "
                                                 "deviations above the mean",
                                                 kPoisoned)));
  EXPECT_EQ(metric("on"), metric("off"));
  expect_equal_tensors("on", "off");
  EXPECT_TRUE(skipped("on").empty());
  const Values z = metric("on", "train/lm_loss_z");
  EXPECT_EQ(z.begin()->first, 11);  // after a full window
  EXPECT_GT(z.at(kPoisoned), 8);
  EXPECT_TRUE(metric("off", "train/lm_loss_z").empty());
}

TEST_F(Guards, ASpikeIsSkippedInEveryLayout) {
  poison(kPoisoned);
  const std::map<std::string, std::pair<int, std::string>> layouts = {
      {"one", {1, ""}},
      {"two", {2, ""}},
      {"zero3", {4, "--parallel.zero_stage 3 --batch.train_micro_batch_size_per_gpu 1"}},
      {"zero3_bf16", {2, "--parallel.zero_stage 3 --precision.precision bfloat16"}},
      {"pipe", {2, "--parallel.pipe_parallel_size 2"}},
      {"tensor_pipe", {4, "--parallel.model_parallel_size 2 --parallel.pipe_parallel_size 2"}},
  };
  for (const auto& [name, layout] : layouts) {
    const auto run = workspace_.run_ok(
        train(layout.first, kGuards + ("--parallel.replica_check_interval 1 " + layout.second)),
        name);
    EXPECT_THAT(run.err, ContainsRegex(
                             fmt::format("step {}: spike: .*weights were not changed", kPoisoned)));
    EXPECT_EQ(skipped(name), std::vector<std::int64_t>{kPoisoned}) << name;
  }
  const Values one = metric("one");
  EXPECT_GT(one.at(kPoisoned), one.at(kPoisoned - 1) + 1.0);
  double worst = 0;
  for (const char* name : {"two", "zero3", "pipe", "tensor_pipe"}) {
    const Values losses = metric(name);
    ASSERT_EQ(losses.size(), one.size());
    for (const auto& [step, loss] : one) {
      worst = std::max(worst, std::abs(losses.at(step) - loss) / loss);
    }
  }
  std::printf("    worst relative difference of a loss over %d steps: %.2e (limit 1e-5)\n", kSteps,
              worst);
  EXPECT_LE(worst, 1e-5);
}

TEST_F(Guards, AnInterruptedRunSkipsTheSameSteps) {
  poison(kPoisoned);
  const std::string options = kGuards;
  workspace_.run_ok(train(2, options), "straight");
  // Left right after the spike: at the step that was skipped.
  workspace_.run_ok(train(2, options + "--train.exit_interval 27"), "after");
  ASSERT_TRUE(fs::exists(workspace_.path() / "after/run/step0000000027.h5"));
  workspace_.run_ok(train(2, options), "after");
  // Left in the middle of the window's filling, and right before the spike.
  for (const char* interval : {"6", "20"}) {
    workspace_.run_ok(train(2, options + "--train.exit_interval " + interval), "before");
  }
  workspace_.run_ok(train(2, options + "--train.exit_interval 26"), "before");
  workspace_.run_ok(train(2, options), "before");
  for (const char* folder : {"after", "before"}) {
    expect_equal_files("straight", folder);
    EXPECT_EQ(skipped(folder), std::vector<std::int64_t>{kPoisoned});
    EXPECT_EQ(metric(folder), metric("straight"));
  }
}

// The samples from the checkpoint of step 20 to the spike are 160 ... 215.
TEST_F(Guards, ARewoundRunIsTheRunWithoutThoseSamples) {
  poison(kPoisoned);
  const std::string options = std::string(kGuards) + "--logging.log_samples true ";
  const std::string rewind = options + "--guards.action rewind ";
  workspace_.run_ok(train(2, options + "--data.skip_sample_ranges 160-215"), "without");
  EXPECT_EQ(samples("without").at(20), "[[152,153,156,157],[154,155,158,159]]");
  EXPECT_EQ(samples("without").at(21), "[[216,217,220,221],[218,219,222,223]]");
  const std::vector<std::pair<std::string, std::string>> layouts = {
      {"rewound", ""}, {"zero3", "--parallel.zero_stage 3"}, {"zero1", "--parallel.zero_stage 1"}};
  for (const auto& [name, layout] : layouts) {
    const auto run = workspace_.run_ok(train(2, rewind + layout), name);
    EXPECT_THAT(run.err, ContainsRegex(fmt::format(
                             "step {}: back to run/step0000000020.h5 \\(rewind 1 of 3\\); samples "
                             "160-215 are left out. The same run without rewinds: "
                             "data.skip_sample_ranges = 160-215",
                             kPoisoned)));
    EXPECT_EQ(samples(name), samples("without"));
    EXPECT_TRUE(skipped(name).empty());
    EXPECT_EQ(metric(name).size(), static_cast<std::size_t>(kSteps));
  }
  EXPECT_EQ(metric("rewound"), metric("without"));
  expect_equal_tensors("rewound", "without");
  const auto inspect = workspace_.run_ok(fmt::format("neox_convert inspect rewound/{}", kLast));
  EXPECT_THAT(inspect.out, HasSubstr("160-215"));

  // Four ranks, two stages.
  workspace_.run_ok(train(4, rewind + "--parallel.pipe_parallel_size 2"), "pipe");
  double worst = 0;
  const Values losses = metric("pipe");
  for (const auto& [step, loss] : metric("rewound")) {
    worst = std::max(worst, std::abs(losses.at(step) - loss) / loss);
  }
  EXPECT_LE(worst, 1e-5);
}

// kill -9 between the rewind and the next save, and after that save.
TEST_F(Guards, AKilledRewoundRunEndsAtTheSameWeights) {
  poison(kPoisoned);
  const std::string rewind = std::string(kGuards) +
                             "--guards.action rewind --logging.log_samples true "
                             "--checkpoint.checkpoint_factor 10 ";
  workspace_.run_ok(train(2, rewind), "straight");
  const auto killed_at = [&](const std::string& text) {
    Job job(workspace_, train(2, rewind), "killed");
    const bool seen = job.wait_for_text(text);
    ASSERT_TRUE(seen || job.err().find(text) != std::string::npos) << job.err();
    for (const auto& [rank, pid] : job.ranks()) ::kill(pid, SIGKILL);
    EXPECT_GE(job.wait(30), 0);
  };
  killed_at("(rewind 1 of 3)");
  fs::remove(workspace_.path() / "killed" / kLast);
  fs::remove(workspace_.path() /
             "killed/run/step0000000030.h5");  // when it was faster than the kill
  killed_at("(rewind 1 of 3)");
  fs::remove(workspace_.path() / "killed" / kLast);
  workspace_.run_ok(train(2, rewind), "killed");
  expect_equal_files("straight", "killed");
  EXPECT_EQ(samples("killed"), samples("straight"));
  // From the checkpoint after the rewind: what is left out is known from it.
  fs::remove(workspace_.path() / "killed" / kLast);
  const auto last = workspace_.run_ok(train(1, rewind), "killed");
  EXPECT_THAT(last.err, AllOf(HasSubstr("(step 30, "), HasSubstr("samples left out: 160-215"),
                              Not(HasSubstr("rewind 1"))));
  EXPECT_EQ(skipped("killed"), skipped("straight"));
}

TEST_F(Guards, WithoutACheckpointASpikeIsSkipped) {
  poison(kPoisoned);
  const auto run = workspace_.run_ok(
      train(1, std::string(kGuards) + "--guards.action rewind --checkpoint.checkpoint_factor 30"),
      "a");
  EXPECT_THAT(run.err, HasSubstr("no checkpoint to go back to yet: weights were not changed"));
  EXPECT_EQ(skipped("a"), std::vector<std::int64_t>{kPoisoned});
}

// A limit below every loss: all steps are spikes once the window is full.
TEST_F(Guards, ARunThatOnlySkipsEndsWithADiagnosis) {
  const std::string rising = "--optimizer.lr 0.3 --schedule.warmup 0.9 --guards.spike_window 4 ";
  const auto run = workspace_.run(
      train(2, rising + "--guards.grad_norm_z 0.01 --guards.loss_z 0.01 "
                        "--guards.max_skipped_steps 3 --optimizer.gradient_clipping 0"),
      "a");
  EXPECT_EQ(run.exit_code, 1) << run.err;
  EXPECT_THAT(run.err, AllOf(HasSubstr("3 steps in a row were skipped, 3 as spikes and 0 as not "
                                       "finite; the last: "),
                             HasSubstr("Latest steps (loss / gradient norm): "),
                             HasSubstr("lower optimizer.lr (now 0.3)")));
}

TEST_F(Guards, SkippedRangesWorkWithRampUpLayoutsAndResume) {
  const std::string options =
      "--batch.train_batch_size 12 --batch.rampup_batch_size 4,4,40 --train.train_iters 12 "
      "--logging.log_samples true --data.skip_sample_ranges 6-9,30-35,20-20 ";
  workspace_.run_ok(train(1, options), "one");
  workspace_.run_ok(train(2, options + "--train.exit_interval 5"), "two");
  workspace_.run_ok(train(1, options), "two");
  const auto ids = [&](const std::string& folder) {
    std::vector<std::vector<std::int64_t>> steps;
    for (const auto& line : lines(folder + "/run/samples.jsonl")) {
      auto& step = steps.emplace_back();
      for (const auto& rank : line.at("ids")) {
        for (const auto& id : rank) step.push_back(id.get<std::int64_t>());
      }
      std::sort(step.begin(), step.end());
    }
    return steps;
  };
  const auto one = ids("one");
  ASSERT_EQ(one.size(), 12u);
  EXPECT_EQ(one, ids("two"));
  EXPECT_EQ(one[0], (std::vector<std::int64_t>{0, 1, 2, 3}));
  EXPECT_EQ(one[1], (std::vector<std::int64_t>{4, 5, 10, 11}));
  EXPECT_EQ(one[4].size(), 4u);
  EXPECT_EQ(one[5].size(), 8u);
  std::int64_t next = 0;
  for (const auto& step : one) {
    for (const std::int64_t id : step) {
      while ((6 <= next && next <= 9) || (30 <= next && next <= 35) || next == 20) ++next;
      EXPECT_EQ(id, next++);
    }
  }
  const auto consumed = metric("one", "train/consumed_tokens");
  EXPECT_EQ(consumed.at(6), 32 * (5 * 4 + 8));
}

TEST_F(Guards, TheListMayChangeAtAResume) {
  const std::string options = "--logging.log_samples true --train.train_iters 6 ";
  workspace_.run_ok(train(1, options + "--data.skip_sample_ranges 4-5 --train.exit_interval 3"),
                    "a");
  workspace_.run_ok(train(1, options + "--data.skip_sample_ranges 0-9,30-39"), "a");
  const auto found = samples("a");
  EXPECT_EQ(found.at(1), "[[0,1,2,3,6,7,8,9]]");
  EXPECT_EQ(found.at(3), "[[18,19,20,21,22,23,24,25]]");
  EXPECT_EQ(found.at(4), "[[26,27,28,29,40,41,42,43]]");
}

// Nearly all is left out: the order begins again, without what is left out.
TEST_F(Guards, TheOrderBeginsAgainWhenItIsUsedUp) {
  const auto run = workspace_.run_ok(train(1,
                                           "--logging.log_samples true --train.train_iters 9 "
                                           "--data.skip_sample_ranges 8-300,2-3"),
                                     "a");
  EXPECT_THAT(run.err, ContainsRegex("samples left out: 2-3, 8-300; the last [0-9]+ samples of the "
                                     "run are taken from the beginning of the order again"));
  std::vector<std::int64_t> ids;
  for (const auto& line : lines("a/run/samples.jsonl")) {
    for (const auto& id : line.at("ids").at(0)) ids.push_back(id.get<std::int64_t>());
  }
  ASSERT_EQ(ids.size(), 72u);
  const auto again = std::find(ids.begin() + 1, ids.end(), 0);
  ASSERT_NE(again, ids.end());
  for (auto at = ids.begin(), other = again; other != ids.end(); ++at, ++other) {
    EXPECT_EQ(*other, *at);
  }
  for (const std::int64_t id : ids) {
    EXPECT_FALSE((8 <= id && id <= 300) || id == 2 || id == 3) << id;
  }
}

TEST_F(Guards, WrongRangesAreRefused) {
  const auto error = [&](const std::string& ranges) {
    const auto run =
        workspace_.run("neox_train --config ../tiny.ini --data.skip_sample_ranges " + ranges, "a");
    EXPECT_EQ(run.exit_code, 1) << ranges;
    return run.err;
  };
  EXPECT_THAT(error("9-5"), HasSubstr("'9-5' ends before it begins; expected 5-9"));
  EXPECT_THAT(error("1-5,-3-4"), HasSubstr("'-3-4' is no range; expected first-last"));
  EXPECT_THAT(error("1-100000"), ContainsRegex("data.skip_sample_ranges: 1-100000 goes beyond the "
                                               "last sample, [0-9]+, of this run's order"));
  const auto run = workspace_.run(
      "neox_train --config ../tiny.ini --guards.loss_z 3 --guards.action rewind "
      "--checkpoint.no_save_optim true",
      "a");
  EXPECT_EQ(run.exit_code, 1);
  EXPECT_THAT(run.err, HasSubstr("guards.action = rewind needs checkpoints with optimizer state"));
}

}  // namespace
}  // namespace neox::testing
