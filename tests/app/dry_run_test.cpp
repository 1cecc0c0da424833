// neox_train --dry-run and --profile as a user types them.

#include <algorithm>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/app/program_runner.h"

namespace neox::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

const std::string kConfigs = NEOX_SOURCE_DIR "/configs/";

TEST(DryRunOfTheProgram, NeedsNeitherDataNorOtherRanks) {
  const Workspace workspace;
  const auto result =
      workspace.run_ok("neox_train --config " + kConfigs + "neox-20b.ini --dry-run --ranks 96");
  EXPECT_THAT(result.out, HasSubstr("dry run: 96 ranks"));
  EXPECT_THAT(result.out, HasSubstr("main weights (f32)"));
  EXPECT_THAT(result.out, HasSubstr("tensor (2)"));
  EXPECT_EQ(result.err, "");
}

TEST(DryRunOfTheProgram, MistakesAreOneLine) {
  const Workspace workspace;
  const std::string start = "neox_train --config " + kConfigs + "neox-20b.ini ";
  for (const auto& [arguments, message] :
       {std::pair{"--rank 1", "--rank says what a dry run shows: add --dry-run"},
        {"--all-ranks", "--all-ranks says what a dry run shows: add --dry-run"},
        {"--dry-run --rank 8", "--rank 8: the ranks of this job go from 0 to 7"},
        {"--dry-run --print-config", "--dry-run and --print-config exclude each other"},
        {"--dryrun", "unknown option --dryrun; did you mean --dry-run?"}}) {
    const auto result = workspace.run(start + arguments);
    EXPECT_EQ(result.exit_code, 1) << arguments;
    EXPECT_THAT(result.err, HasSubstr(message));
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
    EXPECT_EQ(result.out, "");
  }
}

TEST(ProfileOfTheProgram, ShowsEveryRankAndStep) {
  const Workspace workspace;
  make_corpus(workspace);
  workspace.write("tiny.ini", tiny_config("corpus_text_document"));
  const std::string train =
      "neox_train --config tiny.ini --train.train_iters 3 --parallel.pipe_parallel_size 2 ";
  const auto profiled = workspace.run_ok(mpirun(4, train + "--profile"));
  for (const char* text : {"profile of step 1:", "profile of step 3:", "compute", "bubble",
                           "data wait", "pipe", "communication of rank 0 per step, mean of 3"}) {
    EXPECT_THAT(profiled.err, HasSubstr(text));
  }
  const auto plain = workspace.run_ok(mpirun(4, train + "--checkpoint.save plain"));
  EXPECT_THAT(plain.err, Not(HasSubstr("profile of step")));
}

}  // namespace
}  // namespace neox::testing
