#include "core/model/block_graphs.h"

#include <stdexcept>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/cuda/simulated_runtime.h"

namespace neox {
namespace {

using ::testing::HasSubstr;

constexpr Device kDevice{DeviceKind::simulated, 0};

/// Work of a made-up block: takes memory and copies `from` there and to `to`.
class BlockGraphsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    try {
      register_simulated_runtime();
    } catch (const Error& error) {
      GTEST_SKIP() << error.what();
    }
    stream_ = make_stream(kDevice);
    from_ = OwnedTensor({4}, DType::f32, kDevice);
    to_ = OwnedTensor({4}, DType::f32, kDevice);
    keep_.emplace(kDevice);
    keep_->commit(4096);
  }
  void set(float value) {
    const std::vector<float> values(4, value);
    copy(*stream_, host_view(values), from_);
  }
  float result() {
    OwnedTensor host({4}, DType::f32);
    copy(*stream_, to_, host);
    return host.tensor.ptr<float>()[3];
  }
  BlockCall call() {
    BlockCall call;
    call.block = 3;
    call.arenas[1] = &*keep_;
    call.saved = &saved_;
    call.block_gradients = &gradients_;
    return call;
  }
  /// One pass of the block, from an arena that holds 256 bytes already.
  void run(BlockGraphs& graphs, const BlockCall& call, bool wait = false) {
    keep_->release(0);
    keep_->take({1}, DType::f32);
    saved_ = {};
    graphs.run(call, [&] {
      ++works_;
      const Tensor kept = keep_->take({4}, DType::f32);
      copy(*stream_, from_, kept);
      saved_.u1 = kept;
      if (wait) stream_->synchronize();
      copy(*stream_, kept, to_);
    });
    EXPECT_EQ(keep_->mark(), 512u);
    EXPECT_TRUE(saved_.u1);
  }

  std::unique_ptr<Stream> stream_;
  OwnedTensor from_, to_;
  std::optional<Arena> keep_;
  Block::Saved saved_;
  Block::Gradients gradients_;
  int works_ = 0;
};

TEST_F(BlockGraphsTest, WorksTwiceAndThenLaunches) {
  BlockGraphs graphs(*stream_, GraphMode::on);
  for (int i = 0; i < 5; ++i) {
    set(static_cast<float>(i));
    run(graphs, call());
    EXPECT_EQ(result(), static_cast<float>(i)) << i;  // what is in memory, not what was recorded
    EXPECT_EQ(works_, std::min(i + 1, 2));
  }
  EXPECT_EQ(graphs.recorded(), 1);
  EXPECT_EQ(graphs.launched(), 4);
}

TEST_F(BlockGraphsTest, TakesNothingForTheSameThatIsNot) {
  const float there[2] = {};
  Arena other(kDevice);
  const std::vector<std::function<void(BlockCall&)>> changes = {
      [](BlockCall& c) { c.part = BlockCall::Part::again; },
      [](BlockCall& c) { c.block = 4; },
      [](BlockCall& c) { c.batch = 2; },
      [](BlockCall& c) { c.seq = 2; },
      [](BlockCall& c) { c.accumulates = true; },
      [&](BlockCall& c) { c.input = there; },
      [&](BlockCall& c) { c.output = there; },
      [&](BlockCall& c) { c.weights = there; },
      [&](BlockCall& c) { c.gradients = there; },
      [&](BlockCall& c) { c.arenas[0] = &other; },
  };
  for (std::size_t i = 0; i < changes.size(); ++i) {
    BlockGraphs graphs(*stream_, GraphMode::on);
    run(graphs, call());
    run(graphs, call());
    works_ = 0;
    BlockCall changed = call();
    changes[i](changed);
    EXPECT_NE(changed.key(), call().key()) << i;
    run(graphs, changed);
    EXPECT_EQ(works_, 1) << i;
  }
  const BlockCall before = call();
  const BlockCall::Key key = before.key();
  keep_->take({1}, DType::f32);
  EXPECT_NE(before.key(), key);  // what it takes would lie elsewhere
}

TEST_F(BlockGraphsTest, RecordsAgainWhenAWorkspaceMayHaveMoved) {
  BlockGraphs graphs(*stream_, GraphMode::on);
  for (int i = 0; i < 3; ++i) run(graphs, call());
  EXPECT_EQ(works_, 2);
  const Buffer workspace(64, kDevice, MemoryOwner::backend);
  for (int i = 0; i < 3; ++i) run(graphs, call());
  EXPECT_EQ(works_, 4);
  EXPECT_EQ(graphs.recorded(), 2);
}

TEST_F(BlockGraphsTest, GoesOnWithoutWhereWorkCannotBeRecorded) {
  BlockGraphs automatic(*stream_, GraphMode::automatic);
  for (int i = 0; i < 4; ++i) {
    set(static_cast<float>(i));
    run(automatic, call(), true);  // waits for the stream, which nobody may while it is recorded
    EXPECT_EQ(result(), static_cast<float>(i));
  }
  EXPECT_EQ(works_, 5);  // the second time twice
  EXPECT_EQ(automatic.recorded(), 0);
  BlockGraphs on(*stream_, GraphMode::on);
  run(on, call(), true);
  try {
    run(on, call(), true);
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("system.cuda_graphs = on, but the work of a layer cannot "
                                        "be recorded (simulated device: a stream was waited for"));
  }
  set(7);  // the stream is as good as before
  run(automatic, call());
  EXPECT_EQ(result(), 7);
}

TEST_F(BlockGraphsTest, LeavesTheStreamWholeWhenWorkThrows) {
  BlockGraphs graphs(*stream_, GraphMode::automatic);
  run(graphs, call());
  keep_->release(0);
  keep_->take({1}, DType::f32);
  EXPECT_THROW(graphs.run(call(), [] { throw std::runtime_error("of another kind"); }),
               std::runtime_error);
  set(5);
  copy(*stream_, from_, to_);
  EXPECT_EQ(result(), 5);
}

TEST(BlockGraphs, NeedADeviceThatRecords) {
  const auto stream = make_stream(Device{});
  try {
    const BlockGraphs graphs(*stream, GraphMode::on);
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("system.cuda_graphs = on, but the run computes on cpu"));
  }
}

}  // namespace
}  // namespace neox
