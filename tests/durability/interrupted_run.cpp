#include "tests/durability/interrupted_run.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <thread>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "io/checkpoint/checkpoint.h"
#include "io/checkpoint/directory.h"

namespace neox::testing {
namespace fs = std::filesystem;

std::vector<JobLayout> twelve_layouts() {
  const std::string tensor = "--parallel.model_parallel_size ";
  const std::string pipe = "--parallel.pipe_parallel_size ", zero = "--parallel.zero_stage ";
  const std::string rows = "--batch.train_micro_batch_size_per_gpu ";
  return {
      {1, rows + "12"},
      {1, rows + "3"},
      {2, zero + "0 " + rows + "3"},
      {2, zero + "1 " + rows + "6"},
      {2, zero + "3 " + rows + "2"},
      {2, tensor + "2 " + rows + "4"},
      {2, pipe + "2 " + rows + "2"},
      {3, zero + "2 " + rows + "4"},
      {3, tensor + "3 --parallel.sequence_parallel false " + rows + "6"},
      {4, tensor + "2 " + zero + "1 " + rows + "3"},
      {4, pipe + "2 " + zero + "2 " + rows + "3 --parallel.pipeline_schedule gpipe"},
      {4, tensor + "2 " + pipe + "2 " + rows + "3 --parallel.pipeline_schedule zb-h1"},
  };
}

std::vector<JobLayout> twelve_other_layouts() {
  const std::string tensor = "--parallel.model_parallel_size ";
  const std::string pipe = "--parallel.pipe_parallel_size ", zero = "--parallel.zero_stage ";
  const std::string rows = "--batch.train_micro_batch_size_per_gpu ";
  return {
      {1, rows + "2 --parallel.checkpoint_activations true"},
      {1, rows + "6"},
      {2, zero + "2 " + rows + "6"},
      {2, zero + "3 " + rows + "1"},
      {2, tensor + "2 --parallel.sequence_parallel false " + rows + "6"},
      {2, pipe + "2 --parallel.pipeline_schedule interleaved --parallel.virtual_pipeline_size 2 " +
              rows + "3"},
      {3, tensor + "3 " + rows + "6"},
      {3, zero + "1 " + rows + "2"},
      {4, pipe + "4 " + rows + "2"},
      {4, zero + "3 " + rows + "3"},
      {4, tensor + "2 " + zero + "3 " + rows + "2"},
      {4, pipe + "2 " + zero + "1 " + rows + "2"},
  };
}

std::string durable_config(std::int64_t steps, std::int64_t save_every, std::int64_t keep_last) {
  return fmt::format(R"([model]
num_layers = 4
hidden_size = 24
num_attention_heads = 6
seq_length = 16
rotary_pct = 1
gpt_j_residual = true
no_weight_tying = true
hidden_dropout = 0.1
attention_dropout = 0.1

[batch]
train_batch_size = 12

[optimizer]
lr = 0.0003
betas = 0.9, 0.95
# Rounding differs between layouts, and AdamW makes steps of a gradient that is nothing else.
eps = 1e-4

[schedule]
lr_decay_style = constant

[train]
train_iters = {}
eval_interval = 0

[data]
data_path = ../corpus_text_document
split = 100,0,0

[tokenizer]
tokenizer_type = CharLevelTokenizer

[checkpoint]
save = run
checkpoint_factor = {}
keep_last_n_checkpoints = {}

[logging]
log_interval = 1000000
)",
                     steps, save_every, keep_last);
}

StepRecords uninterrupted_run(const Workspace& workspace, const std::string& config_file,
                              const std::string& folder, const JobLayout& layout,
                              const std::string& options) {
  const std::string command = fmt::format("neox_train --config ../{} {} {} {}", config_file,
                                          layout.options, options, log_samples());
  workspace.run_ok(mpirun(layout.ranks, command), folder);
  StepRecords steps = read_steps(workspace.file(folder + "/run/metrics.jsonl"));
  EXPECT_TRUE(log_samples().empty() || samples_are_continuous(steps));
  return steps;
}

std::int64_t number_from_environment(const char* name, std::int64_t value) {
  const char* text = std::getenv(name);
  return text == nullptr || *text == '\0' ? value : std::strtoll(text, nullptr, 10);
}

std::uint64_t choose_seed() {
  const auto seed = static_cast<std::uint64_t>(
      number_from_environment("NEOX_SEED", static_cast<std::int64_t>(std::random_device{}())));
  std::printf("    seed %llu (NEOX_SEED gives it again)\n", static_cast<unsigned long long>(seed));
  std::fflush(stdout);
  return seed;
}

std::set<std::int64_t> checkpoints_in(const std::string& directory) {
  std::set<std::int64_t> steps;
  for (const FoundCheckpoint& found : find_checkpoints(directory)) steps.insert(found.step);
  return steps;
}

std::string damage_of(const std::string& directory, std::int64_t step) {
  try {
    const auto self = make_self_communicator();
    CheckpointReader(*self, directory + "/" + checkpoint_file_name(step)).verify();
  } catch (const std::exception& error) {
    return error.what();
  }
  return "";
}

InterruptedRun::InterruptedRun(const Workspace& workspace, RunPlace place, StepRecords reference,
                               double tolerance)
    : workspace_(workspace),
      place_(std::move(place)),
      reference_(std::move(reference)),
      tolerance_(tolerance) {}

void InterruptedRun::start(const JobLayout& layout, const std::string& environment) {
  newest_at_start_ = newest();
  job_.reset();  // its end removes what the next one uses
  watch_ = std::make_unique<SaveWatch>(place_.checkpoints);
  const std::string command = fmt::format("neox_train --config ../{} {} {} {}", place_.config,
                                          layout.options, place_.options, log_samples());
  job_ =
      std::make_unique<Job>(workspace_, environment + mpirun(layout.ranks, command), place_.folder);
}

void InterruptedRun::check(const std::set<std::int64_t>& commits) {
  tally.commits += static_cast<std::int64_t>(commits.size());
  check_resume();
  committed_.insert(commits.begin(), commits.end());
  check_directory();
  check_losses(newest_at_start_ + 1);
}

void InterruptedRun::check_directory() {
  const std::set<std::int64_t> present = checkpoints_in(place_.checkpoints);
  auto kept = committed_.rbegin();
  for (std::int64_t i = 0; i < place_.keep_last && kept != committed_.rend(); ++i, ++kept) {
    EXPECT_TRUE(present.contains(*kept)) << "the checkpoint of step " << *kept << " is gone";
  }
  for (const std::int64_t step : present) {
    EXPECT_EQ(damage_of(place_.checkpoints, step), "") << "step " << step;
    ++tally.verified;
  }
  // One that was committed and not yet reported when the job ended.
  committed_.insert(present.begin(), present.end());
}

void InterruptedRun::check_resume() {
  const std::string err = job_->err();
  EXPECT_EQ(err.find("skipping step"), std::string::npos) << err;
  if (newest_at_start_ == 0) return;
  // Only a job that was cut off during its start may have said nothing.
  if (err.find("resuming from ") == std::string::npos) {
    EXPECT_EQ(err.find("saved "), std::string::npos) << "started from scratch:\n" << err;
    return;
  }
  const auto step = numbers_after(err, ".h5 (step ");
  ASSERT_EQ(step.size(), 1u) << err;
  EXPECT_EQ(step[0], newest_at_start_) << "not the newest checkpoint:\n" << err;
  ++tally.resumes;
}

void InterruptedRun::check_losses(std::int64_t first) {
  if (!fs::exists(place_.metrics)) return;
  const Comparison c = compare_steps(read_steps(place_.metrics), first, reference_);
  EXPECT_EQ(c.problem, "");
  EXPECT_LE(c.worst, tolerance_) << "loss of step " << c.worst_step;
  tally.steps_compared += c.steps;
  tally.with_samples += c.steps_with_samples;
  tally.worst_loss = std::max(tally.worst_loss, c.worst);
}

void InterruptedRun::start_over() {
  job_.reset();
  watch_.reset();
  committed_.clear();
  fs::remove(place_.metrics);
  fs::create_directories(place_.checkpoints);
  for (const auto& entry : fs::directory_iterator(place_.checkpoints)) {
    if (entry.is_regular_file()) fs::remove(entry.path());
  }
}

namespace {

// An unfinished save's file; empty: none.
std::string leftover(const std::string& directory) {
  for (const auto& entry : fs::directory_iterator(directory)) {
    const std::string name = entry.path().filename();
    if (name.starts_with(".tmp-") || name.starts_with(".del-")) return name;
  }
  return "";
}

}  // namespace

void InterruptedRun::check_end() {
  const Comparison c = compare_steps(read_steps(place_.metrics), 1, reference_);
  EXPECT_EQ(c.problem, "");
  EXPECT_EQ(c.steps, place_.steps);
  EXPECT_EQ(c.steps_with_samples, log_samples().empty() ? 0 : place_.steps);
  EXPECT_LE(c.worst, tolerance_) << "loss of step " << c.worst_step;
  EXPECT_EQ(checkpoints_in(place_.checkpoints).size(), static_cast<std::size_t>(place_.keep_last));
  // A killed process that the kernel has not let go of yet (its disk is slow) still holds its file:
  // the save after that removes it.
  std::string left = leftover(place_.checkpoints);
  for (int i = 0; i < 100 && !left.empty(); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    remove_leftovers(place_.checkpoints);
    left = leftover(place_.checkpoints);
  }
  EXPECT_EQ(left, "");
}

}  // namespace neox::testing
