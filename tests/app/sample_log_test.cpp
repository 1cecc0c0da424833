// logging.log_samples: the file names every sample that was trained on, by rank.

#include <algorithm>
#include <map>
#include <set>
#include <sstream>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/app/program_runner.h"

namespace neox::testing {
namespace {

using ::testing::HasSubstr;

using Ids = std::vector<std::vector<std::int64_t>>;  // by rank

class SampleLog : public ::testing::Test {
 protected:
  SampleLog() {
    make_corpus(workspace_);
    workspace_.write("tiny.ini", tiny_config("../corpus_text_document"));
  }
  std::string train(int ranks, const std::string& options = "") const {
    return mpirun(ranks,
                  "neox_train --config ../tiny.ini --logging.log_samples true "
                  "--train.eval_interval 0 " +
                      options);
  }
  /// The lines of a run by step.
  std::map<std::int64_t, nlohmann::json> lines(const std::string& folder) const {
    std::map<std::int64_t, nlohmann::json> result;
    std::istringstream in(workspace_.read(folder + "/run/samples.jsonl"));
    for (std::string line; std::getline(in, line);) {
      const auto json = nlohmann::json::parse(line);
      EXPECT_TRUE(result.emplace(json.at("step").get<std::int64_t>(), json).second)
          << "step " << json.at("step") << " appears twice";
    }
    return result;
  }
  Workspace workspace_;
};

std::vector<std::int64_t> sorted_ids(const nlohmann::json& line) {
  std::vector<std::int64_t> all;
  for (const auto& rank : line.at("ids").get<Ids>()) {
    all.insert(all.end(), rank.begin(), rank.end());
  }
  std::sort(all.begin(), all.end());
  return all;
}

TEST_F(SampleLog, NamesEverySampleOfEveryRankInEveryLayout) {
  workspace_.run_ok(train(1), "one");
  workspace_.run_ok(train(4, "--parallel.pipe_parallel_size 2"), "four");
  const auto one = lines("one"), four = lines("four");
  ASSERT_EQ(one.size(), 20u);
  ASSERT_EQ(four.size(), 20u);
  std::map<std::int64_t, nlohmann::json> origins;  // of each sample
  for (const auto& [step, line] : one) {
    EXPECT_EQ(line.at("samples"), 8);
    const auto ids = line.at("ids").get<Ids>();
    ASSERT_EQ(ids.size(), 1u);
    ASSERT_EQ(line.at("origins").at(0).size(), 8u);
    for (std::size_t i = 0; i < 8; ++i) {
      EXPECT_EQ(ids[0][i], 8 * (step - 1) + static_cast<std::int64_t>(i));
      origins[ids[0][i]] = line.at("origins").at(0).at(i);
    }
  }
  // Micro-batches of 2 go to the ranks in turn (two stages share a rank's samples).
  EXPECT_EQ(four.at(3).at("ids").get<Ids>(), (Ids{{16, 17, 20, 21}, {18, 19, 22, 23}}));
  std::set<nlohmann::json> different;
  for (const auto& [step, line] : four) {
    EXPECT_EQ(sorted_ids(line), sorted_ids(one.at(step)));
    const auto ids = line.at("ids").get<Ids>();
    for (std::size_t rank = 0; rank < 2; ++rank) {
      for (std::size_t i = 0; i < 4; ++i) {
        EXPECT_EQ(line.at("origins").at(rank).at(i), origins.at(ids[rank][i]));
        different.insert(line.at("origins").at(rank).at(i));
      }
    }
  }
  EXPECT_EQ(different.size(),
            160u);  // the corpus is not used up: no sample begins where another does
}

TEST_F(SampleLog, ResumedRunsGoOnInTheSameFile) {
  workspace_.run_ok(train(1, "--train.exit_interval 12"), "resumed");
  EXPECT_EQ(lines("resumed").size(), 12u);
  // Back to step 10: steps 11 and 12 are done again, by two ranks.
  workspace_.run_ok("rm run/step0000000012.h5", "resumed");
  workspace_.run_ok(train(2), "resumed");
  const auto found = lines("resumed");
  ASSERT_EQ(found.size(), 20u);
  for (const auto& [step, line] : found) {
    EXPECT_EQ(line.at("ids").size(), step <= 10 ? 1u : 2u) << step;
    EXPECT_EQ(sorted_ids(line).front(), 8 * (step - 1));
    EXPECT_EQ(sorted_ids(line).back(), 8 * step - 1);
  }
}

TEST_F(SampleLog, NeedsADirectory) {
  workspace_.write("nowhere.ini", tiny_config("../corpus_text_document") + "\n[logging]\n");
  const auto run = workspace_.run(
      "sed -i 's/^save = run//; s/^checkpoint_factor.*//' ../nowhere.ini; "
      "neox_train --config ../nowhere.ini --logging.log_samples true",
      "a");
  EXPECT_EQ(run.exit_code, 1);
  EXPECT_THAT(run.err, HasSubstr("logging.log_samples = true (command line): there is no "
                                 "directory for it: set logging.log_dir"));
}

}  // namespace
}  // namespace neox::testing
