// Which checkpoints stay, what is done with them, and what weights-only ones are good for.

#include <filesystem>
#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/app/program_runner.h"

namespace neox::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::Not;

class Keeping : public ::testing::Test {
 protected:
  Keeping() {
    make_corpus(workspace_);
    workspace_.write("tiny.ini", tiny_config("corpus_text_document"));
  }
  std::string train(int ranks, const std::string& options) const {
    return mpirun(ranks, "neox_train --config tiny.ini --train.eval_interval 0 " + options);
  }
  std::set<int> steps() const {
    std::set<int> found;
    for (const auto& entry : fs::directory_iterator(workspace_.path() / "run")) {
      const std::string name = entry.path().filename().string();
      if (name.starts_with("step")) found.insert(std::stoi(name.substr(4)));
    }
    return found;
  }
  Workspace workspace_;
};

TEST_F(Keeping, MilestonesOutliveTheLastN) {
  workspace_.run_ok(train(
      2,
      "--checkpoint.checkpoint_factor 2 --checkpoint.extra_save_iters 5 "
      "--checkpoint.keep_last_n_checkpoints 2 --checkpoint.keep_every 6 --checkpoint.keep_log 2"));
  EXPECT_EQ(steps(), (std::set<int>{2, 4, 5, 6, 8, 12, 16, 18, 20}));
}

TEST_F(Keeping, WithoutMilestonesTheLastNStay) {
  workspace_.run_ok(
      train(1, "--checkpoint.checkpoint_factor 2 --checkpoint.keep_last_n_checkpoints 2"));
  EXPECT_EQ(steps(), (std::set<int>{18, 20}));
  const auto useless = workspace_.run(train(1, "--checkpoint.keep_every 5"));
  EXPECT_EQ(useless.exit_code, 1);
  EXPECT_THAT(useless.err, HasSubstr("keep_last_n_checkpoints"));
}

// The command is an MPI program, and fails: both are none of the run's business.
TEST_F(Keeping, CommandGetsEveryCheckpoint) {
  const auto run = workspace_.run_ok(
      train(2,
            "--checkpoint.mtbf_hours 24 --checkpoint.post_save_command 'neox_convert verify "
            "$NEOX_CHECKPOINT >> seen; echo $NEOX_CHECKPOINT_STEP >> seen; exit 3'"));
  const std::string seen = workspace_.read("seen");
  EXPECT_THAT(seen, ContainsRegex("run/step0000000010.h5: step 10, all .* whole\n10\n"));
  EXPECT_THAT(seen, ContainsRegex("run/step0000000020.h5: step 20, all .* whole\n20\n"));
  EXPECT_THAT(run.err,
              HasSubstr("post_save_command ended with exit code 3 for run/step0000000010"));
  EXPECT_THAT(run.err,
              HasSubstr("post_save_command ended with exit code 3 for run/step0000000020"));
  EXPECT_THAT(run.err, ContainsRegex("best save interval: [0-9.e+]+ min, [0-9]+ steps of"));
}

// A command that hangs blocks neither the steps nor, for long, the end; what it has not worked on
// stays although newer checkpoints push it out.
TEST_F(Keeping, HangingCommandIsEnded) {
  const auto run = workspace_.run_ok(
      train(1,
            "--checkpoint.checkpoint_factor 5 --checkpoint.keep_last_n_checkpoints 1 "
            "--checkpoint.post_save_timeout 0.5 "
            "--checkpoint.post_save_command 'echo $$ > pid; sleep 300'"));
  EXPECT_THAT(run.err, HasSubstr("was not done with run/step0000000005.h5 after 0.5 s"));
  EXPECT_THAT(run.err, HasSubstr("was not done with run/step0000000020.h5 after 0.5 s"));
  EXPECT_EQ(steps(), (std::set<int>{5, 10, 15, 20}));
  EXPECT_EQ(workspace_.run("kill -0 $(cat pid)").exit_code, 1);
}

TEST_F(Keeping, AnotherOptimizersStateIsRefusedOrReplaced) {
  workspace_.run_ok(train(2, "--optimizer.type lion --train.train_iters 10"));
  const std::string sgd = "--optimizer.type sgd --optimizer.betas 0.9,0.999 ";
  const auto refused = workspace_.run(train(2, sgd));
  EXPECT_EQ(refused.exit_code, 1);
  EXPECT_THAT(refused.err, HasSubstr("run/step0000000010.h5 holds the state of optimizer.type = "
                                     "lion (exp_avg), not of sgd (momentum_buffer)"));
  EXPECT_THAT(refused.err, HasSubstr("checkpoint.no_load_optim = true"));
  const auto replaced = workspace_.run_ok(train(2, sgd + "--checkpoint.no_load_optim"));
  EXPECT_THAT(replaced.err, HasSubstr("the optimizer starts with fresh state"));
  EXPECT_THAT(replaced.err, HasSubstr("resuming from run/step0000000010.h5"));
  const auto contents = workspace_.run_ok("neox_convert inspect run");
  EXPECT_THAT(contents.out, HasSubstr("/optimizer/momentum_buffer/"));
  EXPECT_THAT(contents.out, Not(HasSubstr("/optimizer/exp_avg")));
}

TEST_F(Keeping, WeightsOnlySayWhatIsMissing) {
  const std::string options = "--precision.precision bfloat16 --checkpoint.no_save_optim ";
  const auto first = workspace_.run_ok(train(2, options + "--train.train_iters 10"));
  EXPECT_THAT(first.err, HasSubstr("checkpoints hold weights only"));
  const auto contents = workspace_.run_ok("neox_convert inspect run");
  EXPECT_THAT(contents.out, HasSubstr("weights only: there is no optimizer state"));
  EXPECT_THAT(contents.out, HasSubstr("/model/embed_in/weight"));
  EXPECT_THAT(contents.out, Not(HasSubstr("/optimizer/")));
  const auto refused = workspace_.run(train(2, options));
  EXPECT_EQ(refused.exit_code, 1);
  EXPECT_THAT(refused.err, HasSubstr("holds weights only (checkpoint.no_save_optim)"));
  EXPECT_THAT(refused.err, HasSubstr("state and the float32 main weights are missing"));
  EXPECT_THAT(refused.err, HasSubstr("checkpoint.no_load_optim = true"));
  const auto resumed = workspace_.run_ok(train(1, "--checkpoint.no_load_optim"));
  EXPECT_THAT(resumed.err, HasSubstr("the optimizer starts with fresh state"));
  EXPECT_THAT(resumed.err, HasSubstr("resuming from run/step0000000010.h5 (step 10, 80 samples)"));
  // Complete again, so that the next resume needs no permission.
  const auto complete = workspace_.run_ok(train(1, "--train.train_iters 21"));
  EXPECT_THAT(complete.err, HasSubstr("resuming from run/step0000000020.h5"));
}

}  // namespace
}  // namespace neox::testing
