// Where a run stands goes through a checkpoint, and checkpoints of before there was more of it
// load.

#include "core/train/run_state.h"

#include <filesystem>
#include <functional>
#include <unistd.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/base/error.h"
#include "core/config/describe.h"
#include "core/config/resolve.h"
#include "core/train/engine.h"

namespace neox::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class RunState : public ::testing::Test {
 protected:
  RunState() : world_(make_self_communicator()) {
    ModelConfig& m = config_.model;
    m.num_layers = 1;
    m.hidden_size = 16;
    m.num_attention_heads = 2;
    m.seq_length = 8;
    m.vocab_size = 20;
    config_.batch.train_batch_size = 1;
    config_.batch.train_micro_batch_size_per_gpu = 1;
    config_.train.train_iters = 10;
    resolve(config_, 1);
    engine_.emplace(*world_, config_);
    engine_->initialise(1);
    std::string name = (fs::temp_directory_path() / "neox-run-state-XXXXXX").string();
    directory_ = ::mkdtemp(name.data());
  }
  ~RunState() override { fs::remove_all(directory_); }

  /// Saves `progress` after `change` has altered what is written; returns what is loaded.
  Progress through_checkpoint(const Progress& progress,
                              const std::function<void(CheckpointInfo&)>& change = {}) {
    RunImage image = run_image(engine_->model(), engine_->optimizer(), config_,
                               effective_ini(config_, config_), progress);
    if (change) change(image.info);
    save_checkpoint(*world_, directory_, image.tensors, image.info);
    const auto reader = open_newest(*world_, directory_);
    return load_run(*reader, engine_->model(), &engine_->optimizer(), LoadScope::everything,
                    engine_->ops(), engine_->stream());
  }

  std::unique_ptr<Communicator> world_;
  Config config_;
  std::optional<Engine> engine_;
  std::string directory_;
};

Progress some_progress() {
  Progress progress{7, 56, 448, 60};
  GuardState& guards = progress.guards;
  guards.losses = {3.25, 1.0 / 3.0, 2e-17, 0.0};
  guards.grad_norms = {0.1, 123456789.125, 5e-324, 1.7e308};
  guards.in_a_row = 2;
  guards.spikes_in_a_row = 1;
  guards.skipped_steps = 5;
  guards.rewinds = 3;
  guards.rewound_samples = {{4, 9}, {20, 20}};
  progress.loss_scaler = {0x1p31 / 3, 2, 999, 17, true};
  return progress;
}

void expect_equal(const Progress& a, const Progress& b) {
  EXPECT_EQ(a.step, b.step);
  EXPECT_EQ(a.consumed_samples, b.consumed_samples);
  EXPECT_EQ(a.consumed_tokens, b.consumed_tokens);
  EXPECT_EQ(a.next_sample, b.next_sample);
  EXPECT_EQ(a.guards, b.guards);
  EXPECT_EQ(a.loss_scaler, b.loss_scaler);
}

TEST_F(RunState, PositionAndGuardsAreKept) {
  expect_equal(through_checkpoint(some_progress()), some_progress());
}

TEST_F(RunState, GuardsWithNothingToRememberLeaveNoTrace) {
  const Progress progress{7, 56, 448, 56};
  expect_equal(through_checkpoint(progress,
                                  [](const CheckpointInfo& info) {
                                    EXPECT_FALSE(info.groups.contains("/guards"));
                                    EXPECT_FALSE(info.texts.contains("/guards/window"));
                                    EXPECT_FALSE(info.groups.contains("/loss_scaler"));
                                  }),
               progress);
}

TEST_F(RunState, CheckpointsWithoutAPositionStandAtTheSamplesConsumed) {
  const Progress loaded = through_checkpoint(some_progress(), [](CheckpointInfo& info) {
    info.groups["/data"].erase("next_sample");
    info.groups.erase("/guards");
    info.groups.erase("/loss_scaler");
    info.texts.erase("/guards/window");
  });
  expect_equal(loaded, {7, 56, 448, 56});
}

TEST_F(RunState, TheScheduleStandsStillWhileTheLossScalerSkips) {
  Progress progress{7, 56, 448, 56};
  progress.loss_scaler.overflow_steps = 3;
  EXPECT_EQ(progress.schedule_steps(), 4);
  EXPECT_EQ((Progress{7, 56, 448, 56}.schedule_steps()), 7);
}

TEST_F(RunState, IncompleteGuardsAreRefused) {
  try {
    through_checkpoint(some_progress(),
                       [](CheckpointInfo& info) { info.groups["/guards"].erase("rewinds"); });
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("lacks the attribute rewinds of /guards"));
  }
}

TEST_F(RunState, AnotherOptimizersStateIsRefused) {
  Progress progress = some_progress();
  const auto message = [&](const std::string& type, double momentum) {
    Config other = config_;
    other.optimizer.type = type;
    other.optimizer.momentum = momentum;
    ++progress.step;
    const RunImage image = run_image(engine_->model(), engine_->optimizer(), other,
                                     effective_ini(other, other), progress);
    save_checkpoint(*world_, directory_, image.tensors, image.info);
    const auto reader = open_newest(*world_, directory_);
    try {
      load_run(*reader, engine_->model(), &engine_->optimizer(), LoadScope::everything,
               engine_->ops(), engine_->stream());
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  EXPECT_EQ(message("adam", 0.9), "");
  EXPECT_THAT(message("lion", 0.9), HasSubstr("holds the state of optimizer.type = lion (exp_avg), "
                                              "not of adam (exp_avg, exp_avg_sq)"));
  EXPECT_THAT(message("sgd", 0.0), HasSubstr("sgd (no state)"));
  EXPECT_THAT(message("lamb", 0.9), HasSubstr("checkpoint.no_load_optim = true"));
}

}  // namespace
}  // namespace neox::testing
