// Ranks that are killed, stopped, fail, or differ: the job ends soon, and the message is right.

#include <algorithm>
#include <chrono>
#include <csignal>
#include <random>
#include <thread>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/app/job.h"
#include "tests/app/program_runner.h"

namespace neox::testing {
namespace {

using ::testing::HasSubstr;

constexpr int kRanks = 4;
constexpr double kSecondsToEnd = 5.0;

class Faults : public ::testing::Test {
 protected:
  Faults() {
    make_corpus(workspace_);
    workspace_.write("tiny.ini", tiny_config("../corpus_text_document"));
  }
  std::string train(const std::string& options) const {
    return mpirun(kRanks,
                  "neox_train --config ../tiny.ini --train.train_iters 1000000 "
                  "--train.eval_interval 0 --checkpoint.checkpoint_factor 1000000 " +
                      options);
  }
  static void sleep(double seconds) {
    std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
  }
  Workspace workspace_;
  std::mt19937 random_{std::random_device{}()};
};

// From the very start, when MPI is not yet up on all ranks, into training.
TEST_F(Faults, AKilledRankEndsTheJobAtAnyMoment) {
  constexpr int kMoments = 20;
  double slowest = 0;
  int named_by_watchdog = 0;
  for (int i = 0; i < kMoments; ++i) {
    const std::string folder = fmt::format("kill{}", i);
    Job job(workspace_, train(""), folder);
    ASSERT_TRUE(job.wait_for_ranks(kRanks)) << job.err();
    if (i % 4 != 0) {
      ASSERT_TRUE(job.wait_for_text("step 3/")) << job.err();
    }
    sleep(std::uniform_real_distribution<double>(0.0, 1.0)(random_));
    const int victim = std::uniform_int_distribution<int>(0, kRanks - 1)(random_);
    const auto ranks = job.ranks();
    ASSERT_EQ(ranks.size(), static_cast<std::size_t>(kRanks)) << job.err();
    ASSERT_EQ(::kill(ranks.at(victim), SIGKILL), 0);
    const double seconds = job.wait(30);
    EXPECT_TRUE(seconds >= 0 && seconds < kSecondsToEnd) << seconds << " s\n" << job.err();
    EXPECT_NE(job.exit_code(), 0);
    const std::string err = job.err();
    const bool watchdog = err.find(fmt::format("watchdog: rank {} (", victim)) != std::string::npos;
    EXPECT_TRUE(watchdog ||
                err.find(fmt::format("process rank {} with PID", victim)) != std::string::npos)
        << "rank " << victim << " is not named:\n"
        << err;
    named_by_watchdog += watchdog ? 1 : 0;
    slowest = std::max(slowest, seconds);
  }
  std::printf(
      "    %d kills: slowest end after %.2f s (limit %.0f s); named by the watchdog %d times, "
      "otherwise by mpirun alone\n",
      kMoments, slowest, kSecondsToEnd, named_by_watchdog);
}

TEST_F(Faults, AStoppedRankIsNamedByTheWatchdog) {
  constexpr double kLimit = 2.0;
  double slowest = 0;
  for (const int victim : {0, 1, 3}) {
    const std::string folder = fmt::format("stop{}", victim);
    Job job(workspace_, train(fmt::format("--train.watchdog_timeout {}", kLimit)), folder);
    ASSERT_TRUE(job.wait_for_text("step 3/")) << job.err();
    sleep(std::uniform_real_distribution<double>(0.0, 1.0)(random_));
    const auto ranks = job.ranks();
    ASSERT_EQ(ranks.size(), static_cast<std::size_t>(kRanks)) << job.err();
    ASSERT_EQ(::kill(ranks.at(victim), SIGSTOP), 0);
    const double seconds = job.wait(60);
    EXPECT_TRUE(seconds >= kLimit && seconds < kLimit + kSecondsToEnd) << seconds << " s\n"
                                                                       << job.err();
    EXPECT_NE(job.exit_code(), 0);
    EXPECT_THAT(job.err(), HasSubstr(fmt::format("held up by\n  rank {} (", victim)));
    EXPECT_THAT(job.err(), HasSubstr("is stopped (by SIGSTOP or a debugger)"));
    EXPECT_THAT(job.err(), ::testing::ContainsRegex("step [0-9]+, [a-z ]+"));
    EXPECT_THAT(job.err(), HasSubstr("these wait for others:"));
    EXPECT_THAT(job.err(), HasSubstr(" group"));
    slowest = std::max(slowest, seconds);
  }
  std::printf("    slowest end %.2f s after SIGSTOP, limit %.0f s\n", slowest, kLimit);
}

// Rank 3 runs in a folder of its own, where the relative path of the data leads elsewhere.
class FaultsOfOneRank : public Faults {
 protected:
  std::string train_apart(const std::string& options, const std::string& last_options) const {
    const std::string program = fmt::format("neox_train --config {}", workspace_.file("tiny.ini"));
    return fmt::format("mpirun --oversubscribe -np 3 --wdir {0} {2} {3} : -np 1 --wdir {1} {2} {4}",
                       workspace_.file("a"), workspace_.file("other/b"), program, options,
                       last_options);
  }
  void SetUp() override {
    std::filesystem::create_directories(workspace_.path() / "a");
    std::filesystem::create_directories(workspace_.path() / "other/b");
  }
  std::string run(const std::string& command) {
    Job job(workspace_, command, "a");
    const double seconds = job.wait(60);
    // Start-up of MPI and the program included.
    EXPECT_TRUE(seconds >= 0 && seconds < 20) << seconds << "\n" << job.err();
    EXPECT_NE(job.exit_code(), 0);
    return job.err();
  }
};

TEST_F(FaultsOfOneRank, AnErrorOfOneRankEndsTheJobWithItsMessage) {
  const std::string err = run(train_apart("", ""));
  EXPECT_THAT(err, HasSubstr("neox_train: rank 3: "));
  EXPECT_THAT(err, HasSubstr("corpus_text_document"));
  EXPECT_THAT(err, ::testing::Not(HasSubstr("watchdog")));
}

TEST_F(FaultsOfOneRank, AnotherDatasetIsNoticed) {
  const std::string command = fmt::format(
      "cd other && sed 's/the/teh/g' ../corpus.jsonl > corpus.jsonl && neox_preprocess --input "
      "corpus.jsonl --output-prefix corpus --tokenizer-type CharLevelTokenizer --append-eod");
  workspace_.run_ok(command);
  EXPECT_THAT(run(train_apart("", "")),
              ::testing::ContainsRegex("neox_train: rank 3 \\(.*\\) differs from the others in the "
                                       "dataset: it has 'train data [0-9a-f]*' where rank 0"));
}

TEST_F(FaultsOfOneRank, AnotherConfigurationIsNoticed) {
  EXPECT_THAT(run(train_apart("--optimizer.lr 0.02", "--optimizer.lr 0.03")),
              ::testing::ContainsRegex("neox_train: rank 3 \\(.*\\) differs from the others in the "
                                       "configuration: it has 'optimizer.lr=0.03' where rank 0 "
                                       "\\(.*\\) has 'optimizer.lr=0.02'; start all ranks with the "
                                       "same command"));
}

// ---- one rank of four does something wrong, the others wait for it
// -------------------------------

struct Case {
  const char* name;
  double limit;  ///< of the watchdog; part of the time the job takes
  std::vector<const char*> says;
};

class FaultCases : public ::testing::TestWithParam<Case> {};

TEST_P(FaultCases, TheJobEndsAndNamesTheRank) {
  const Case& c = GetParam();
  const Workspace workspace;
  const auto start = std::chrono::steady_clock::now();
  Job job(workspace, mpirun(kRanks, fmt::format("fault_cases {}", c.name)), ".");
  const double gone = job.wait(60, "fault_cases");
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  EXPECT_GE(gone, 0) << job.err();
  EXPECT_LT(seconds, c.limit + kSecondsToEnd + 2) << "with the start of MPI\n" << job.err();
  EXPECT_NE(job.exit_code(), 0);
  for (const char* text : c.says) EXPECT_THAT(job.err(), HasSubstr(text));
  std::printf("    %.2f s with the start of MPI\n", seconds);
}

INSTANTIATE_TEST_SUITE_P(
    All, FaultCases,
    ::testing::Values(
        Case{
            "compute",
            1,
            {"no progress for 1 s (train.watchdog_timeout); held up by\n  rank 2 (",
             "in step 7, forward, micro-batch 3 computes or waits outside of communication",
             "these wait for others:\n  rank 0 (", "waiting in recv from its rank 2 of the world"}},
        Case{"deadlock",
             1,
             {"every rank waits for another one: they do not make the same calls:",
              "in step 9, backward, micro-batch 1, waiting in all_reduce of the world group",
              "waiting in barrier of the world group"}},
        Case{"exit", 0, {"watchdog: rank 2 (", "has vanished"}}, Case{"crash", 0, {"rank 2 "}},
        Case{"error", 0, {"fault_cases: rank 2: the disk is gone"}},
        Case{"memory", 0, {"fault_cases: rank 2: out of memory"}},
        Case{"mpi", 0, {"fault_cases: rank 2: recv failed in ", "truncated"}}),
    [](const auto& param) { return std::string(param.param.name); });

// Some launchers leave the other ranks alone when one is gone (mpirun does with --enable-recovery):
// then only the watchdog ends the job.
TEST(FaultsWithoutLauncher, TheWatchdogEndsTheJobAlone) {
  const Workspace workspace;
  Job job(workspace, "mpirun --enable-recovery -np 4 --oversubscribe fault_cases wait", ".");
  ASSERT_TRUE(job.wait_for_ranks(kRanks, 60, "fault_cases"));
  std::this_thread::sleep_for(std::chrono::seconds(2));
  const auto ranks = job.ranks("fault_cases");
  ASSERT_EQ(ranks.size(), 4u) << job.err();
  ASSERT_EQ(::kill(ranks.at(1), SIGKILL), 0);
  const double seconds = job.wait(30, "fault_cases");
  EXPECT_TRUE(seconds >= 0 && seconds < kSecondsToEnd) << seconds << " s\n" << job.err();
  EXPECT_THAT(job.err(), HasSubstr("watchdog: rank 1 ("));
  std::printf("    all ranks gone after %.2f s\n", seconds);
}

}  // namespace
}  // namespace neox::testing
