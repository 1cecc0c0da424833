#include "core/train/dry_run.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/config/resolve.h"
#include "core/train/step_profiler.h"

namespace neox::testing {
namespace {

using ::testing::HasSubstr;

const std::string kConfigs = NEOX_SOURCE_DIR "/configs/";

/// The report for "neox_train --config FILE --dry-run ARGUMENTS".
std::string report(const std::string& file, std::vector<const char*> arguments, int started = 1) {
  DryRunRequest request;
  Program program;
  program.name = "neox_train";
  program.sections = {"model", "parallel", "batch"};
  program.options = request.options();
  const std::string path = kConfigs + file;
  std::vector<const char*> argv = {"neox_train", "--config", path.c_str(), "--dry-run"};
  argv.insert(argv.end(), arguments.begin(), arguments.end());
  const ParsedCommand command =
      parse_command_line(static_cast<int>(argv.size()), argv.data(), program);
  return dry_run_report(request, command, started);
}

std::string error_of(const std::string& file, const std::vector<const char*>& arguments) {
  try {
    report(file, arguments);
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(DryRun, AnyLayoutDoesTheSameWork) {
  Config one;
  one.model.num_layers = 8;
  one.model.hidden_size = 64;
  one.model.num_attention_heads = 8;
  one.model.seq_length = 32;
  one.model.vocab_size = 500;
  one.batch.train_batch_size = 16;
  one.batch.train_micro_batch_size_per_gpu = 1;
  one.train.train_iters = 1;
  Config eight = one;
  eight.parallel.pipe_parallel_size = 2;
  eight.parallel.model_parallel_size = 2;
  eight.parallel.zero_stage = 2;
  resolve(one, 1);
  resolve(eight, 8);
  const double flops = plan_rank(one, 0, 1).work.flops;
  EXPECT_GT(flops, 0);
  double sum = 0;
  for (int rank = 0; rank < 8; ++rank) sum += plan_rank(eight, rank, 8).work.flops;
  EXPECT_EQ(sum, flops);
}

TEST(DryRun, TwentyBillionParametersOnThisMachine) {
  const std::int64_t live = allocation_counts(MemoryOwner::run).bytes_live;
  restart_allocation_peaks();
  const std::string text = report("neox-20b.ini", {"--ranks", "96", "--rank", "95"});
  EXPECT_EQ(allocation_counts(MemoryOwner::run).bytes_peak, live);
  EXPECT_THAT(text, HasSubstr("96 ranks (--ranks)"));
  EXPECT_THAT(text, HasSubstr("20,554,567,680 parameters"));
  EXPECT_THAT(text, HasSubstr("rank 95: tensor 1, data 11, pipe 3: layers"));
  EXPECT_THAT(text, HasSubstr("head"));
  EXPECT_THAT(text, HasSubstr("reduce_scatter"));
}

TEST(DryRun, SaysWhyItPlansSoManyRanks) {
  EXPECT_THAT(report("neox-20b.ini", {}), HasSubstr("8 ranks (the fewest for tensor x pipe"));
  EXPECT_THAT(report("neox-20b.ini", {}, 16), HasSubstr("16 ranks (as many as were started)"));
  EXPECT_THAT(report("neox-20b.ini", {"--batch.gradient_accumulation_steps", "192"}),
              HasSubstr("16 ranks (what the three batch sizes imply"));
}

TEST(DryRun, AllRanksAreGroupedByWhatTheyNeed) {
  const std::string text = report("tiny_20b_layout.ini", {"--all-ranks", "--ranks", "96"});
  EXPECT_THAT(text, HasSubstr("most"));
  EXPECT_THAT(text, HasSubstr("least"));
  EXPECT_THAT(text, HasSubstr("all ranks together"));
}

TEST(DryRun, ExplainsWhatItCannotPlan) {
  const std::string file = "neox-20b.ini";
  EXPECT_EQ(error_of(file, {"--rank", "8"}), "--rank 8: the ranks of this job go from 0 to 7");
  EXPECT_EQ(error_of(file, {"--rank", "-1"}), "--rank -1: the ranks of this job go from 0 to 7");
  EXPECT_EQ(error_of(file, {"--rank", "1", "--all-ranks"}),
            "--rank 1 and --all-ranks exclude each other");
  EXPECT_THAT(error_of(file, {"--ranks", "0"}), HasSubstr("--ranks 0: expected a number from 1"));
  EXPECT_THAT(error_of(file, {"--ranks", "99999999"}), HasSubstr("expected a number from 1"));
  EXPECT_THAT(error_of(file, {"--ranks", "90"}), HasSubstr("90 ranks are not a multiple of"));
  EXPECT_THAT(error_of(file, {"--ranks", "x"}), HasSubstr("--ranks x: expected a whole number"));
  DryRunRequest request;
  request.rank = 3;
  EXPECT_THROW(request.check(), Error);
}

TEST(StepProfile, ComputingIsWhatIsNotWaiting) {
  StepTimes times;
  times.total = 1.0;
  times.bubble = 0.25;
  times.data = 0.125;
  times.exposed = {0.125, 0.25};
  EXPECT_EQ(times.compute(), 0.25);
  const std::string full = step_times_table({"tensor", "data"}, {times, times});
  EXPECT_THAT(full, HasSubstr("tensor"));
  EXPECT_THAT(full, HasSubstr("250.00"));
  std::vector<StepTimes> many(40, times);
  many[17].total = 2.0;
  const std::string summary = step_times_table({"tensor", "data"}, many);
  EXPECT_THAT(summary, HasSubstr("2000.00"));
  EXPECT_THAT(summary, HasSubstr("1025.00"));  // the mean
  EXPECT_THAT(summary, HasSubstr("17"));
}

}  // namespace
}  // namespace neox::testing
