// Saving while training: what is saved, and what failures do.

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "comm/mpi.h"
#include "core/config/describe.h"
#include "core/config/resolve.h"
#include "core/train/run_saver.h"
#include "io/checkpoint/posix_file.h"

namespace neox::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

std::string bytes_of(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

// Faults of this rank's system calls.
std::atomic<int> failing_syncs = 0;      // the next so many fsyncs of temporaries fail
std::atomic<int> slow_writes = 0;        // milliseconds that every pwrite takes longer
std::atomic<bool> hold_renames = false;  // they wait until it is false, for at most a minute
std::atomic<int> held_renames = 0;
std::atomic<int> failing_renames = 0;
int fault(const char* call, const std::string& path) {
  if (std::strcmp(call, "pwrite") == 0) {
    std::this_thread::sleep_for(std::chrono::milliseconds(slow_writes.load()));
  }
  if (std::strcmp(call, "rename") == 0) {
    ++held_renames;
    for (int i = 0; hold_renames && i < 60000; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    if (failing_renames > 0 && failing_renames-- > 0) return EIO;
  }
  const bool sync = std::strcmp(call, "fsync") == 0 && path.find(".tmp-") != std::string::npos;
  return sync && failing_syncs > 0 && failing_syncs-- > 0 ? ENOSPC : 0;
}

class RunSaverTest : public ::testing::Test {
 protected:
  RunSaverTest() : world(make_world_communicator()) {
    std::string name = (fs::temp_directory_path() / "neox-run-saver-XXXXXX").string();
    if (world->rank() == 0) name = ::mkdtemp(name.data());
    directory = world->host_broadcast(name, 0);
    ModelConfig& m = config.model;
    m.num_layers = 2;
    m.hidden_size = 32;
    m.num_attention_heads = 2;
    m.seq_length = 16;
    m.vocab_size = 100;
    config.batch.train_batch_size = 4;
    config.batch.train_micro_batch_size_per_gpu = 2;
    config.train.train_iters = 10;
    config.parallel.zero_stage = 1;
    config.checkpoint.save = directory;
    config.checkpoint.max_failures = 3;
    resolve(config, world->size());
    engine.emplace(*world, config);
    engine->initialise(1);
    testing_hooks::fail_call = fault;
  }
  ~RunSaverTest() override {
    testing_hooks::fail_call = nullptr;
    testing_hooks::before_fill = nullptr;
    failing_syncs = slow_writes = failing_renames = held_renames = 0;
    hold_renames = false;
    world->barrier();
    if (world->rank() == 0) fs::remove_all(directory);
  }

  RunSaver saver() { return {*world, *engine, config, "text", std::chrono::milliseconds(20)}; }

  /// As the Trainer does it.
  void step(RunSaver* saver = nullptr) {
    const std::int64_t rows = 2 * config.model.seq_length;
    MicroBatch batch;
    for (std::int64_t r = 0; r < rows; ++r) {
      batch.tokens.push_back(static_cast<std::int32_t>((7 * r + progress.step) % 100));
      batch.labels.push_back(static_cast<std::int32_t>((3 * r + world->rank()) % 100));
      batch.loss_mask.push_back(1.0f);
    }
    engine->train_step(std::span(&batch, 1), 1e-3, progress.step, 1e-3);
    ++progress.step;
    if (saver == nullptr) return;
    std::array<std::int64_t, 2> flags = {saver->mine_through() ? 1 : 0,
                                         saver->mine_wants_retry() ? 1 : 0};
    world->host_all_reduce(std::span<std::int64_t>(flags), ReduceOp::sum);
    saver->between_steps(progress, flags[0] == world->size(), flags[1] > 0);
  }
  std::string saved_at_once(std::int64_t at) {
    const RunImage image =
        run_image(engine->model(), engine->optimizer(), config, "text", progress);
    EXPECT_EQ(progress.step, at);
    const std::string other = directory + "/other";
    save_checkpoint(*world, other, image.tensors, image.info, save_options(config.checkpoint));
    return bytes_of(find_checkpoints(other).at(0).path);
  }
  /// As rank 0 sees them at one moment: a commit in the background may come between two looks, and
  /// ranks that loop until it has would not leave the loop together.
  std::vector<std::int64_t> steps_on_disk() {
    world->barrier();
    std::string text;
    for (const FoundCheckpoint& found : find_checkpoints(directory)) {
      text += fmt::format("{} ", found.step);
    }
    std::istringstream in(world->host_broadcast(text, 0));
    return {std::istream_iterator<std::int64_t>(in), {}};
  }
  std::int64_t temporaries() {
    std::int64_t count = 0;
    for (const auto& entry : fs::directory_iterator(directory)) {
      if (entry.path().filename().string().starts_with(".tmp-")) ++count;
    }
    return count;
  }

  std::unique_ptr<Communicator> world;
  std::string directory;
  Config config;
  std::optional<Engine> engine;
  Progress progress;
};

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST_F(RunSaverTest, TheStateOfItsStepIsSavedWhileTrainingGoesOn) {
  step();
  step();
  const std::string want = saved_at_once(2);
  const std::int64_t before = allocation_counts().bytes_live;
  RunSaver saver = this->saver();
  slow_writes = 20;
  saver.begin(progress);
  EXPECT_EQ(allocation_counts().bytes_live - before,
            static_cast<std::int64_t>(engine->memory_plan().checkpoint_copy));
  EXPECT_FALSE(saver.mine_through());
  step(&saver);
  EXPECT_THAT(steps_on_disk(), IsEmpty());
  slow_writes = 0;
  for (int i = 0; i < 2000 && steps_on_disk().empty(); ++i) step(&saver);
  saver.drain();
  ASSERT_THAT(steps_on_disk(), ElementsAre(2));
  EXPECT_EQ(temporaries(), 0);
  EXPECT_TRUE(bytes_of(find_checkpoints(directory).at(0).path) == want);
}

// Training stands still neither for writing nor for the copy, but the update waits for the latter.
TEST_F(RunSaverTest, AnUpdateWaitsForTheCopy) {
  step();
  const std::string want = saved_at_once(1);
  RunSaver saver = this->saver();
  static std::atomic<bool> copied;
  copied = false;
  testing_hooks::before_fill = [] {
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    copied = true;
  };
  saver.begin(progress);
  const double at_begin = saver.stall_seconds();
  EXPECT_FALSE(copied);
  step(&saver);
  EXPECT_TRUE(copied);
  EXPECT_GT(saver.stall_seconds(), at_begin);
  testing_hooks::before_fill = nullptr;
  step(&saver);
  saver.drain();
  ASSERT_THAT(steps_on_disk(), ElementsAre(1));
  EXPECT_TRUE(bytes_of(find_checkpoints(directory).at(0).path) == want);
}

TEST_F(RunSaverTest, ACopyThatFailsFailsTheSave) {
  step();
  RunSaver saver = this->saver();
  if (world->rank() == 1) testing_hooks::before_fill = [] { fail("the device is lost"); };
  saver.begin(progress);
  step(&saver);  // does not wait for ever
  saver.drain();
  EXPECT_THAT(steps_on_disk(), IsEmpty());
  EXPECT_EQ(temporaries(), 0);
  testing_hooks::before_fill = nullptr;
  saver.finish(progress);
  EXPECT_THAT(steps_on_disk(), ElementsAre(2));
}

TEST_F(RunSaverTest, NeverTwoAtATime) {
  RunSaver saver = this->saver();
  step();
  slow_writes = 10;
  saver.begin(progress);
  step();
  saver.begin(progress);  // waits for the first
  EXPECT_THAT(steps_on_disk(), ElementsAre(1));
  saver.finish(progress);
  EXPECT_THAT(steps_on_disk(), ElementsAre(2, 1));
  saver.finish(progress);  // nothing to do
  EXPECT_THAT(steps_on_disk(), ElementsAre(2, 1));
}

TEST_F(RunSaverTest, OneRanksFailureIsAWarningAndTriedAgain) {
  RunSaver saver = this->saver();
  step();
  if (world->rank() == 1) failing_syncs = 1;
  saver.begin(progress);
  saver.drain();
  EXPECT_THAT(steps_on_disk(), IsEmpty());
  EXPECT_EQ(temporaries(), 0);
  std::vector<std::int64_t> steps;
  for (int i = 0; i < 2000 && (steps = steps_on_disk()).empty(); ++i) step(&saver);
  saver.drain();
  ASSERT_EQ(steps.size(), 1u);
  EXPECT_GT(steps[0], 1);  // the state of the second attempt, not of the first
  CheckpointReader(*world, find_checkpoints(directory).at(0).path).verify();
}

// However often a run saves, it waits with the next attempt, and counts only attempts.
TEST_F(RunSaverTest, SavesThatAreDueDoNotShortenTheWaitAfterAFailure) {
  RunSaver saver{*world, *engine, config, "text", std::chrono::hours(1)};
  if (world->rank() == 1) failing_syncs = 1000;
  for (int i = 0; i < 10; ++i) {
    step(&saver);
    saver.begin(progress);
    if (i == 0) saver.drain();
  }
  EXPECT_EQ(failing_syncs, world->rank() == 1 ? 999 : 0);
  EXPECT_THAT(steps_on_disk(), IsEmpty());
  failing_syncs = 0;
  saver.finish(progress);  // at once: the program wants to leave
  EXPECT_THAT(steps_on_disk(), ElementsAre(10));
}

TEST_F(RunSaverTest, TheCommitDoesNotStopTrainingEither) {
  RunSaver saver = this->saver();
  step();
  hold_renames = true;
  saver.begin(progress);
  const auto committing = [&] {
    std::int64_t held = held_renames;
    world->host_all_reduce(std::span(&held, 1), ReduceOp::sum);
    return held > 0;
  };
  while (!committing()) step(&saver);
  for (int i = 0; i < 3; ++i) step(&saver);
  EXPECT_THAT(steps_on_disk(), IsEmpty());
  hold_renames = false;
  saver.drain();
  EXPECT_THAT(steps_on_disk(), ElementsAre(1));
}

TEST_F(RunSaverTest, AFailingCommitIsTriedAgain) {
  RunSaver saver = this->saver();
  step();
  failing_renames = world->rank() == 0 ? 1 : 0;
  saver.begin(progress);
  std::vector<std::int64_t> steps;
  for (int i = 0; i < 2000 && (steps = steps_on_disk()).empty(); ++i) step(&saver);
  saver.drain();
  ASSERT_EQ(steps.size(), 1u);
  EXPECT_GT(steps[0], 1);
  EXPECT_EQ(temporaries(), 0);
}

TEST_F(RunSaverTest, LeavingWaitsForAGoodSave) {
  RunSaver saver = this->saver();
  step();
  if (world->rank() == 0) failing_syncs = 2;
  saver.finish(progress);
  EXPECT_THAT(steps_on_disk(), ElementsAre(1));
}

TEST_F(RunSaverTest, TooManyFailuresEndTheRunAndKeepTheLastCheckpoint) {
  RunSaver saver = this->saver();
  step();
  saver.finish(progress);
  const std::string good = bytes_of(find_checkpoints(directory).at(0).path);
  step();
  if (world->rank() == 1) failing_syncs = 1000;
  std::string message;
  try {
    saver.finish(progress);
  } catch (const Error& error) {
    message = error.what();
  }
  EXPECT_THAT(message, HasSubstr("saving the checkpoint of step 2 failed on rank 1"));
  EXPECT_THAT(message, HasSubstr("No space left on device"));
  EXPECT_THAT(message, HasSubstr("failure 3 in a row of 3 (checkpoint.max_failures)"));
  EXPECT_THAT(message, HasSubstr("the newest checkpoint is that of step 1"));
  EXPECT_THAT(steps_on_disk(), ElementsAre(1));
  EXPECT_EQ(temporaries(), 0);
  EXPECT_TRUE(bytes_of(find_checkpoints(directory).at(0).path) == good);
}

// Step 3 is damaged, and the run goes on from step 2: two whole checkpoints stay all the same.
TEST_F(RunSaverTest, ADamagedCheckpointIsNoneOfThoseThatAreKept) {
  config.checkpoint.keep_last_n_checkpoints = 2;
  {
    RunSaver saver = this->saver();
    for (int i = 0; i < 3; ++i) {
      step();
      saver.finish(progress);
    }
    EXPECT_THAT(steps_on_disk(), ElementsAre(3, 2));
  }
  if (world->rank() == 0) fs::resize_file(directory + "/step0000000003.h5", 100'000);
  EXPECT_EQ(open_newest(*world, directory)->info().step, 2);
  RunSaver saver = this->saver();
  saver.set_saved(2);
  progress.step = 4;
  saver.finish(progress);
  EXPECT_THAT(steps_on_disk(), ElementsAre(4, 3, 2));
  progress.step = 5;
  saver.finish(progress);
  EXPECT_THAT(steps_on_disk(), ElementsAre(5, 4));
}

// The HDF5 driver communicates, so it does not write behind the run's back.
TEST_F(RunSaverTest, Hdf5IsWrittenAtOnce) {
  config.checkpoint.io = "hdf5";
  RunSaver saver = this->saver();
  step();
  saver.begin(progress);
  EXPECT_THAT(steps_on_disk(), ElementsAre(1));
}

}  // namespace
}  // namespace neox::testing
