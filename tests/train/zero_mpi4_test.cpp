// The real model under every ZeRO stage and data-parallel size: equal runs, equal files.

#include <filesystem>
#include <fstream>
#include <sstream>
#include <unistd.h>

#include <gtest/gtest.h>

#include "comm/mpi.h"
#include "tests/train/sharded_run.h"

namespace neox::testing {
namespace {

std::string contents(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

class ZeroRun : public ::testing::Test {
 protected:
  ZeroRun() {
    directory_ = world->host_broadcast(
        (std::filesystem::temp_directory_path() / ("neox_zero_" + std::to_string(getpid())))
            .string(),
        0);
  }
  ~ZeroRun() override {
    world->barrier();
    if (world->rank() == 0) std::filesystem::remove_all(directory_);
  }

  /// Three steps on `group`, then a checkpoint; returns the file's bytes.
  std::string trained(Communicator& group, const Config& config, const ShardedLayout& layout,
                      std::vector<double>* losses = nullptr) {
    ShardedRun run(group, config, layout);
    run.initialise();
    for (int i = 0; i < 3; ++i) {
      double norm = 0.0;
      const double loss = run.step(&norm);
      if (losses != nullptr) {
        losses->push_back(loss);
        losses->push_back(norm);
      }
    }
    if (losses != nullptr) losses->push_back(run.evaluate());
    return contents(run.save());
  }

  std::unique_ptr<Communicator> world = make_world_communicator();
  std::unique_ptr<Communicator> pair = world->split(
      [](int r) {
        return SplitPlace{r / 2, r};
      },
      "pair");
  std::unique_ptr<Communicator> alone = make_self_communicator();
  std::string directory_;
};

TEST_F(ZeroRun, StagesAreBitEqual) {
  for (const bool tied : {false, true}) {
    for (const DType compute : {DType::f32, DType::bf16, DType::f16}) {
      for (const std::int64_t micro_batches : {1, 2}) {
        const Config config = sharded_run_config(tied, compute, directory_);
        std::vector<std::string> files;
        std::vector<std::vector<double>> losses;
        for (int stage = 0; stage <= 3; ++stage) {
          files.push_back(trained(*world, config, {stage, micro_batches}, &losses.emplace_back()));
        }
        SCOPED_TRACE(::testing::Message() << "tied " << tied << ", " << name_of(compute) << ", "
                                          << micro_batches << " micro-batches");
        EXPECT_EQ(losses[0], losses[1]);
        EXPECT_EQ(losses[2], losses[3]);
        EXPECT_TRUE(files[0] == files[1]);
        EXPECT_TRUE(files[2] == files[3]);
        if (micro_batches == 1) {
          EXPECT_EQ(losses[0], losses[2]);
          EXPECT_TRUE(files[0] == files[2]);
        }
        for (std::size_t i = 0; i < losses[0].size(); ++i) {
          EXPECT_NEAR(losses[2][i] / losses[0][i], 1.0, compute == DType::f32 ? 1e-5 : 1e-2);
        }
      }
    }
  }
}

OptimizerConfig optimizer_of(const std::string& type) {
  OptimizerConfig config;
  config.type = type;
  config.gradient_clipping = 0.5;
  if (type == "sgd") config.nesterov = true;
  if (type == "madgrad_wd") config.eps = 1e-6;
  return config;
}

// Every stage leaves the same file, and goes on from it exactly.
TEST_F(ZeroRun, EveryOptimizerIsBitEqualAndResumesExactly) {
  for (const char* type : {"lion", "sgd", "madgrad_wd", "lamb", "sm3"}) {
    Config config = sharded_run_config(true, DType::bf16, directory_);
    config.optimizer = optimizer_of(type);
    std::string file;
    std::vector<double> straight;
    for (const int stage : {0, 3, 1, 2}) {
      SCOPED_TRACE(::testing::Message() << type << ", stage " << stage);
      if (stage > 0) {  // from what the stage before left
        ShardedRun resumed(*world, config, {stage, 1});
        resumed.load();
        EXPECT_EQ((std::vector<double>{resumed.step(), resumed.step()}), straight);
      }
      ShardedRun run(*world, config, {stage, 1});
      run.initialise();
      for (int i = 0; i < 2; ++i) run.step();
      const std::string bytes = contents(run.save());
      if (stage == 0) file = bytes, straight = {run.step(), run.step()};
      EXPECT_TRUE(bytes == file);
    }
  }
}

TEST_F(ZeroRun, LayoutsAgreeUpToRounding) {
  const Config config = sharded_run_config(true, DType::f32, directory_);
  std::vector<double> one;
  trained(*alone,
          sharded_run_config(true, DType::f32, directory_ + "/" + std::to_string(world->rank())),
          {0, 1}, &one);
  double worst = 0.0;
  for (int stage = 0; stage <= 3; ++stage) {
    for (const std::int64_t micro_batches : {1, 2}) {
      std::vector<double> losses;
      trained(*world, config, {stage, micro_batches}, &losses);
      for (std::size_t i = 0; i < one.size(); ++i) {
        worst = std::max(worst, std::abs(losses[i] / one[i] - 1.0));
      }
    }
  }
  EXPECT_LE(worst, 1e-5);
  if (world->rank() == 0) std::printf("    worst relative difference %.1e\n", worst);
}

TEST_F(ZeroRun, GradientsMayTravelInSixteenBits) {
  for (const auto& [compute, exchange] :
       {std::pair(DType::f32, DType::bf16), std::pair(DType::f16, DType::bf16),
        std::pair(DType::f16, DType::f16)}) {
    SCOPED_TRACE(::testing::Message() << name_of(compute) << ", " << name_of(exchange));
    const Config config = sharded_run_config(false, compute, directory_);
    std::vector<double> exact, rounded, first;
    trained(*world, config, {0, 1}, &exact);
    std::string file;
    for (int stage = 0; stage <= 3; ++stage) {
      rounded.clear();
      const std::string bytes = trained(*world, config, {stage, 1, 5000, exchange}, &rounded);
      if (stage == 0) file = bytes, first = rounded;
      EXPECT_TRUE(bytes == file) << "stage " << stage;
      EXPECT_EQ(rounded, first);
    }
    EXPECT_NE(exact, rounded);
    const double limit = exchange == DType::f16 ? 2e-3 : 1e-2;
    for (std::size_t i = 0; i < exact.size(); ++i) EXPECT_NEAR(rounded[i] / exact[i], 1.0, limit);
  }
}

// Too large for messages of f16 while f32 gradients and the layers' own f16 tensors are not: every
// rank skips, and the scale shrinks until they fit.
TEST_F(ZeroRun, OverflowsOfMessagesAreSeenByAllRanks) {
  Config config = sharded_run_config(false, DType::f16, directory_);
  config.model.hidden_dropout = 0.0;
  config.precision.initial_scale_power = 24;
  config.precision.hysteresis = 1;
  const auto overflows = [&](int stage, DType exchange) {
    ShardedRun run(*world, config, {stage, 1, 5000, exchange});
    run.initialise();
    for (int i = 0; i < 8; ++i) run.step();
    EXPECT_EQ(run.scales().back(),
              std::ldexp(0x1p24, -static_cast<int>(run.progress.loss_scaler.overflow_steps)));
    EXPECT_EQ(run.optimizer->steps_taken(), 8 - run.progress.loss_scaler.overflow_steps);
    return run.progress.loss_scaler.overflow_steps;
  };
  const std::int64_t without = overflows(0, DType::f32), with = overflows(0, DType::f16);
  EXPECT_GT(with, without);
  EXPECT_LT(with, 8);
  for (int stage = 1; stage <= 3; ++stage) EXPECT_EQ(overflows(stage, DType::f16), with);
}

// A state saved by any layout gives the same file, and every layout that loads it saves it again
// byte for byte.
TEST_F(ZeroRun, FilesKeepNothingOfTheLayout) {
  for (const DType compute : {DType::f32, DType::bf16, DType::f16}) {
    const Config config = sharded_run_config(compute == DType::f32, compute, directory_);
    const std::string file = trained(*world, config, {2, 2});
    for (int stage = 0; stage <= 3; ++stage) {
      for (Communicator* group : {alone.get(), pair.get(), world.get()}) {
        world->barrier();
        if (world->rank() < group->size()) {  // one group at a time
          ShardedRun run(*group, config, {stage, 1, group->size() == 2 ? 700 : 100000});
          run.load();
          EXPECT_EQ(run.progress.step, 3);
          EXPECT_TRUE(contents(run.save()) == file)
              << "stage " << stage << ", " << group->size() << " ranks";
        }
        world->barrier();
      }
    }
  }
}

TEST_F(ZeroRun, ResumesInAnyLayout) {
  const Config config = sharded_run_config(true, DType::f32, directory_);
  std::vector<double> straight;
  {
    ShardedRun run(*world, config, {3, 1});
    run.initialise();
    for (int i = 0; i < 6; ++i) straight.push_back(run.step());
  }
  for (const auto& [from, to] : {std::pair(1, 3), std::pair(3, 0), std::pair(2, 1)}) {
    std::vector<double> losses;
    if (world->rank() < 2) {
      ShardedRun run(*pair, config, {from, 2});
      run.initialise();
      for (int i = 0; i < 3; ++i) losses.push_back(run.step());
      run.save();
    }
    world->barrier();
    losses.resize(3);
    ShardedRun run(*world, config, {to, 1});
    run.load();
    for (int i = 3; i < 6; ++i) losses.push_back(run.step());
    for (std::size_t i = world->rank() < 2 ? 0 : 3; i < 6; ++i) {
      EXPECT_NEAR(losses[i] / straight[i], 1.0, 1e-5) << from << " -> " << to << ", step " << i;
    }
    world->barrier();
    if (world->rank() == 0) std::filesystem::remove_all(directory_);
  }
}

// Same layout: bit-identical continuation, from every stage into every stage.
TEST_F(ZeroRun, ResumeIsExact) {
  for (const DType compute : {DType::bf16, DType::f16}) {
    Config config = sharded_run_config(false, compute, directory_);
    if (compute == DType::f16) config.precision.initial_scale_power = 26;  // overflows first
    for (const auto& [from, to] :
         {std::pair(0, 3), std::pair(3, 1), std::pair(1, 2), std::pair(2, 0)}) {
      std::vector<double> straight, resumed;
      LossScalerState state;
      {
        ShardedRun run(*world, config, {from, 1});
        run.initialise();
        for (int i = 0; i < 3; ++i) run.step();
        run.save();
        for (int i = 0; i < 5; ++i) straight.push_back(run.step());
        straight.insert(straight.end(), run.scales().begin() + 3, run.scales().end());
        state = run.progress.loss_scaler;
        EXPECT_EQ(state.overflow_steps > 3, compute == DType::f16);
      }
      ShardedRun run(*world, config, {to, 1});
      run.load();
      for (int i = 0; i < 5; ++i) resumed.push_back(run.step());
      resumed.insert(resumed.end(), run.scales().begin(), run.scales().end());
      EXPECT_EQ(straight, resumed) << from << " -> " << to;
      EXPECT_EQ(run.progress.loss_scaler, state);
      world->barrier();
      if (world->rank() == 0) std::filesystem::remove_all(directory_);
      world->barrier();
    }
  }
}

TEST_F(ZeroRun, MemoryIsWhatTheFormulasSay) {
  for (const DType compute : {DType::f32, DType::bf16}) {
    const auto d = static_cast<std::size_t>(world->size());
    const std::size_t bytes = size_of(compute);
    for (int stage = 0; stage <= 3; ++stage) {
      const std::int64_t before = allocation_counts().bytes_live;
      Transformer model(sharded_run_config(false, compute, directory_).model);
      const auto ops = make_backend(Device{});
      const auto stream = make_stream(Device{});
      model.commit(*ops, *stream, compute, StoreMode::training, false,
                   {world->rank(), world->size(), stage, 5000});
      const DataParallel parallel(model.parameters(), {world.get()}, *ops, *stream);
      const StoreMemory store = model.parameters().memory();
      const DataParallelMemory moving = parallel.memory();
      const auto n = static_cast<std::size_t>(model.parameters().numel());
      EXPECT_EQ(store.weights, n * bytes / (stage == 3 ? d : 1));
      EXPECT_EQ(store.main, compute == DType::f32 ? 0 : n * 4 / (stage >= 1 ? d : 1));
      EXPECT_EQ(store.gradients, n * 4 / (stage >= 2 ? d : 1));
      EXPECT_EQ(store.optimizer, n * 8 / (stage >= 1 ? d : 1));
      std::size_t largest = 0;
      for (int b = 0; b < model.parameters().block_count(); ++b) {
        largest =
            std::max(largest, static_cast<std::size_t>(model.parameters().block_range(b).size()));
      }
      EXPECT_EQ(moving.weights, stage == 3 ? 2 * largest * bytes : 0);
      EXPECT_EQ(moving.gradients, stage >= 2 ? 2 * largest * 4 : 0);
      EXPECT_EQ(moving.communication, 0u);
      const std::size_t rotary = 2u * 16u * 8u * 4u;  // tables [16, 8] f32
      EXPECT_EQ(static_cast<std::size_t>(allocation_counts().bytes_live - before),
                store.weights + store.main + store.gradients + store.optimizer + moving.weights +
                    moving.gradients + rotary);
      Transformer dry(model.config());
      dry.commit(*ops, *stream, compute, StoreMode::training, true,
                 {world->rank(), world->size(), stage, 5000});
      EXPECT_EQ(dry.parameters().memory().weights, store.weights);
      EXPECT_EQ(dry.parameters().memory().gradients, store.gradients);
    }
  }
}

}  // namespace
}  // namespace neox::testing
