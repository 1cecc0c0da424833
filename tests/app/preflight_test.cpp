// neox_train --preflight as a user runs it, and a straggler in a run.

#include <chrono>
#include <csignal>
#include <filesystem>
#include <thread>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/app/job.h"
#include "tests/app/program_runner.h"

namespace neox::testing {
namespace {

using ::testing::AllOf;
using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::Not;

class PreflightProgram : public ::testing::Test {
 protected:
  PreflightProgram() {
    make_corpus(workspace_);
    workspace_.write("tiny.ini", tiny_config("../corpus_text_document"));
  }
  // 1: never slow; this machine is shared.
  CommandResult preflight(int ranks, const std::string& options = "") const {
    return workspace_.run(mpirun(ranks,
                                 "neox_train --preflight --config ../tiny.ini "
                                 "--system.slow_node_threshold 1 " +
                                     options),
                          "a");
  }
  // Lets rank `victim` run for a part in twenty-five of the time only, while `goes_on` says so.
  template <class F>
  static void throttle(const Job& job, int victim, F&& goes_on) {
    const auto ranks = job.ranks();
    const auto found = ranks.find(victim);
    if (found == ranks.end()) return;
    while (goes_on()) {
      if (::kill(found->second, SIGSTOP) != 0) break;
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
      ::kill(found->second, SIGCONT);
      std::this_thread::sleep_for(std::chrono::milliseconds(4));
    }
    ::kill(found->second, SIGCONT);
  }
  Workspace workspace_;
};

TEST_F(PreflightProgram, PassesAndTrainsNothing) {
  for (const int ranks : {1, 2}) {
    const CommandResult r = preflight(ranks);
    EXPECT_EQ(r.exit_code, 0) << r.out << r.err;
    EXPECT_THAT(r.out,
                AllOf(HasSubstr(fmt::format("preflight of {} rank", ranks)), HasSubstr("TFLOP/s"),
                      HasSubstr("preflight passed\n"), Not(HasSubstr("step 1/"))));
  }
  EXPECT_TRUE(std::filesystem::is_empty(workspace_.path() / "a/run"));
}

TEST_F(PreflightProgram, SaysEverythingThatIsWrong) {
  workspace_.write("a/file", "x");
  const CommandResult r =
      preflight(2, "--checkpoint.save file/run --data.data_path ../absent_document");
  EXPECT_EQ(r.exit_code, 1) << r.err;
  EXPECT_THAT(r.out, AllOf(ContainsRegex("error: ranks 0-1 \\(.*\\): .*absent_document"),
                           ContainsRegex("error: rank 0 \\(.*\\): .*file/run"),
                           HasSubstr("preflight failed: 2 errors\n")));
}

TEST_F(PreflightProgram, NamesTheRankWithoutData) {
  std::filesystem::create_directories(workspace_.path() / "a");
  std::filesystem::create_directories(workspace_.path() / "other/b");
  const std::string program = fmt::format(
      "neox_train --preflight --config {} --checkpoint.save {} "
      "--system.slow_node_threshold 1",
      workspace_.file("tiny.ini"), workspace_.file("run"));
  const CommandResult r = workspace_.run(
      fmt::format("mpirun --oversubscribe -np 1 --wdir {0}/a {1} : -np 1 --wdir {0}/other/b {1}",
                  workspace_.path().string(), program),
      "a");
  EXPECT_EQ(r.exit_code, 1) << r.err;
  EXPECT_THAT(r.out, ContainsRegex("error: rank 1 \\(.*\\): .*corpus_text_document"));
  EXPECT_THAT(r.out, HasSubstr("preflight failed: 1 error\n"));
}

TEST_F(PreflightProgram, ExcludesWhatMeansSomethingElse) {
  CommandResult r = preflight(1, "--dry-run");
  EXPECT_EQ(r.exit_code, 1);
  EXPECT_THAT(r.err, HasSubstr("--preflight and --dry-run exclude each other"));
  r = preflight(1, "--print-config");
  EXPECT_THAT(r.err, HasSubstr("--preflight and --print-config exclude each other"));
}

TEST_F(PreflightProgram, ARankThatHangsIsNamedByTheWatchdog) {
  Job job(workspace_,
          mpirun(4, "neox_train --preflight --config ../tiny.ini --train.watchdog_timeout 2"), "a");
  ASSERT_TRUE(job.wait_for_text("on 4 ranks")) << job.err();
  const auto ranks = job.ranks();
  ASSERT_EQ(ranks.count(1), 1u) << job.err();
  ASSERT_EQ(::kill(ranks.at(1), SIGSTOP), 0);
  EXPECT_GE(job.wait(60), 0) << job.err();
  EXPECT_NE(job.exit_code(), 0);
  EXPECT_THAT(job.err(), AllOf(HasSubstr("held up by\n  rank 1 ("), HasSubstr("is stopped")));
}

TEST_F(PreflightProgram, AStragglerIsNamedInTheRun) {
  Job job(workspace_,
          mpirun(4,
                 "neox_train --config ../tiny.ini --train.train_iters 5000 "
                 "--train.eval_interval 0 --checkpoint.checkpoint_factor 1000000 "
                 // Steps long enough that every one is interrupted.
                 "--model.hidden_size 64 --batch.train_batch_size 64 "
                 "--logging.straggler_interval 4 --logging.straggler_threshold 0.5"),
          "a");
  ASSERT_TRUE(job.wait_for_text("step 3/")) << job.err();
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(120);
  throttle(job, 3, [&] {
    return job.running() && std::chrono::steady_clock::now() < deadline &&
           job.err().find("straggler: rank 3 (") == std::string::npos;
  });
  EXPECT_THAT(job.err(), ContainsRegex("straggler: rank 3 \\(.*; tensor 0, data 3, pipe 0\\) takes "
                                       ".* ms a step where the median of the 3 others"));
  EXPECT_THAT(workspace_.read("a/run/metrics.jsonl"), HasSubstr("runtime/slowest_over_median"));
}

}  // namespace
}  // namespace neox::testing
