// neox_plan as a user runs it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "program_runner.h"

namespace neox::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

TEST(Plan, ShowsASchedule) {
  const Workspace work;
  const CommandResult result = work.run_ok(
      "neox_plan --show-schedule --schedule zb-h1 --stages 4 --micro-batches 8 --svg chart.svg");
  EXPECT_THAT(result.out, HasSubstr("stage 3 .........F0 B0 F1 B1 F2 B2 F3 B3 W0"));
  EXPECT_THAT(result.out, HasSubstr("makespan 27, of it 24 at work and 3 idle"));
  EXPECT_THAT(result.out, HasSubstr("(p-1)(F+B-W) = 3"));
  EXPECT_THAT(work.read("chart.svg"), StartsWith("<svg "));
}

TEST(Plan, MistakesAreOneLine) {
  const Workspace work;
  const std::pair<const char*, const char*> mistakes[] = {
      {"--schedule zb-h2", "'zb-h2' is not a pipeline schedule"},
      {"--schedule zb-h1 --chunks 2", "has one chunk per stage, 2 are asked for"},
      {"--stages 0", "0 stages"},
      {"--stages x", "--stages"},
      {"--micro-batches 2000000000", "too long"},
      {"--micro-batches 99999999999", "--micro-batches"},
      {"--costs 1,2", "--costs 1,2: expected three or four whole numbers"},
      {"--costs 1,2,x", "--costs 1,2,x: expected"},
      {"--costs 1,2,3,", "--costs 1,2,3,: expected"},
      {"--costs ''", "--costs : expected"},
      {"--costs 0,0,0", "one must be larger than 0"},
      {"--costs -1,1,1", "expected"},
      {"--schedule forward-only --costs 0,1,1", "a forward pass must cost something"},
      {"--svg /nowhere/chart.svg", "--svg /nowhere/chart.svg: cannot be written"},
      {"--micro-batches 20000 --svg chart.svg", "an image can have 100000"},
      {"chart", "an argument belongs to no option"},
      {"--schedul 1f1b", "--schedul"}};
  for (const auto& [arguments, expected] : mistakes) {
    const CommandResult result = work.run(std::string("neox_plan --show-schedule ") + arguments);
    EXPECT_EQ(result.exit_code, 1) << arguments;
    EXPECT_THAT(result.err, StartsWith("neox_plan: ")) << arguments;
    EXPECT_THAT(result.err, HasSubstr(expected)) << arguments;
    EXPECT_EQ(result.err.find('\n'), result.err.size() - 1) << result.err;
  }
  EXPECT_THAT(work.run("neox_plan --stages 4").err, HasSubstr("--show-schedule is missing"));
  EXPECT_THAT(work.run_ok("neox_plan --help").out, HasSubstr("--micro-batches"));
}

}  // namespace
}  // namespace neox::testing
