// Runs that resume with other data than their checkpoint's (data.when_changed).

#include <map>
#include <sstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/app/program_runner.h"

namespace neox::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

class ChangedData : public ::testing::Test {
 protected:
  ChangedData() {
    make_corpus(workspace_);
    workspace_.run_ok(
        "tac corpus.jsonl > other.jsonl; neox_preprocess --input other.jsonl --output-prefix other "
        "--tokenizer-type CharLevelTokenizer");
    workspace_.write("tiny.ini", tiny_config("../corpus_text_document"));
  }
  std::string train(int ranks, const std::string& options = "") const {
    return mpirun(
        ranks,
        "neox_train --config ../tiny.ini --logging.log_samples true --train.eval_interval 0 " +
            options);
  }
  std::map<std::int64_t, nlohmann::json> lines(const std::string& file) const {
    std::map<std::int64_t, nlohmann::json> result;
    std::istringstream in(workspace_.read(file));
    for (std::string line; std::getline(in, line);) {
      const auto json = nlohmann::json::parse(line);
      result[json.at("step").get<std::int64_t>()].update(json);
    }
    return result;
  }
  Workspace workspace_;
};

constexpr const char* kOther = "--data.data_path ../other_text_document ";

TEST_F(ChangedData, IsRefusedUnlessTheRunSaysWhatToDo) {
  workspace_.run_ok(train(1, "--train.exit_interval 10"), "a");
  const auto refused = workspace_.run(train(2, kOther), "a");
  EXPECT_EQ(refused.exit_code, 1);
  EXPECT_THAT(refused.err,
              AllOf(HasSubstr("data.data_path (../corpus_text_document / ../other_text_document)"),
                    HasSubstr("data.when_changed = restart")));
  EXPECT_EQ(workspace_.run("test -e a/run/step0000000020.h5").exit_code, 1);

  workspace_.run_ok("cp -r a r; cp -r a c");
  const std::string restart = std::string(kOther) + "--data.when_changed restart ";
  const auto restarted = workspace_.run_ok(train(2, restart), "r");
  EXPECT_THAT(restarted.err, HasSubstr("its samples are taken from the first on"));
  // The new data's samples are those of a run of the ten steps that are left.
  workspace_.run_ok(train(2, std::string(kOther) + "--train.train_iters 10"), "fresh");
  const auto fresh = lines("fresh/run/samples.jsonl"), got = lines("r/run/samples.jsonl");
  ASSERT_EQ(got.size(), 20u);
  for (std::int64_t step = 1; step <= 10; ++step) {
    EXPECT_EQ(got.at(10 + step).at("ids"), fresh.at(step).at("ids")) << step;
    EXPECT_EQ(got.at(10 + step).at("origins"), fresh.at(step).at("origins")) << step;
  }
  // The schedule and the counts go on.
  workspace_.run_ok(train(1), "straight");
  const auto straight = lines("straight/run/metrics.jsonl"), metrics = lines("r/run/metrics.jsonl");
  for (std::int64_t step = 1; step <= 20; ++step) {
    for (const char* name : {"train/learning_rate", "train/consumed_tokens"}) {
      ASSERT_TRUE(straight.at(step).contains(name)) << straight.at(step);
      EXPECT_EQ(metrics.at(step).at(name), straight.at(step).at(name)) << name << " " << step;
    }
  }
  // Stopped in the new data and resumed with the same options it goes on exactly.
  workspace_.run_ok("cp -r a s");
  workspace_.run_ok(train(2, restart + "--train.exit_interval 15"), "s");
  const auto again = workspace_.run_ok(train(2, restart), "s");
  EXPECT_THAT(again.err, Not(HasSubstr("from the first on")));
  EXPECT_EQ(lines("s/run/samples.jsonl"), got);
  const auto same =
      workspace_.run("neox_convert diff r/run/step0000000020.h5 s/run/step0000000020.h5");
  EXPECT_EQ(same.exit_code, 0) << same.out << same.err;

  const auto continued =
      workspace_.run_ok(train(1, std::string(kOther) + "--data.when_changed continue"), "c");
  EXPECT_THAT(continued.err, HasSubstr("goes on at the same place in the new order"));
  EXPECT_EQ(lines("c/run/samples.jsonl").at(11).at("ids")[0][0], 80);
}

TEST_F(ChangedData, MovedDataIsTheSameAndMoreStepsAreWarnedAbout) {
  workspace_.run_ok(train(1), "straight");
  workspace_.run_ok(train(1, "--train.exit_interval 10"), "a");
  workspace_.run_ok("mkdir moved; cp corpus_text_document.* moved; cp -r a b");
  const auto moved =
      workspace_.run_ok(train(1, "--data.data_path ../moved/corpus_text_document"), "a");
  EXPECT_THAT(moved.err, AllOf(Not(HasSubstr("other data")), Not(HasSubstr("another order"))));
  EXPECT_EQ(lines("a/run/samples.jsonl"), lines("straight/run/samples.jsonl"));
  const auto seed = workspace_.run(train(1, "--train.seed_data 5"), "b");
  EXPECT_EQ(seed.exit_code, 1);
  EXPECT_THAT(seed.err, HasSubstr("train.seed_data (1234 / 5)"));
  const auto longer =
      workspace_.run_ok(train(1, "--train.train_iters 400 --train.exit_interval 12"), "b");
  EXPECT_THAT(longer.err, HasSubstr("the samples have another order than in the checkpoint"));
  EXPECT_THAT(
      workspace_.run_ok(train(1, "--train.train_iters 400 --train.exit_interval 14"), "b").err,
      Not(HasSubstr("another order")));
}

}  // namespace
}  // namespace neox::testing
