// A run whose numbers explode: which parameter, on which rank, and the run's end.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/app/program_runner.h"

namespace neox::testing {
namespace {

using ::testing::ContainsRegex;
using ::testing::HasSubstr;

TEST(NotFinite, ExplodingRunNamesParameterAndRank) {
  Workspace workspace;
  make_corpus(workspace);
  workspace.write("tiny.ini", tiny_config("corpus_text_document"));
  const auto run =
      workspace.run(mpirun(2,
                           "neox_train --config tiny.ini --optimizer.lr 1e30 --schedule.warmup 0 "
                           "--train.eval_interval 0 --parallel.pipe_parallel_size 2"));
  EXPECT_EQ(run.exit_code, 1);
  EXPECT_THAT(run.err, ContainsRegex("weights were not changed; the gradient of "
                                     "[a-z_0-9.]+ \\(rank [01]\\) is not finite"));
  EXPECT_THAT(run.err, HasSubstr("not finite in 10 steps in a row"));
  EXPECT_THAT(run.err, ContainsRegex("in the last of them the gradient of [a-z_0-9.]+ \\(rank"));
}

}  // namespace
}  // namespace neox::testing
