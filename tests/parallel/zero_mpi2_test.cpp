// ZeRO stages on two data-parallel ranks.
#include <gtest/gtest.h>

#include "comm/mpi.h"
#include "tests/comm/heap_count.h"
#include "tests/parallel/fake_model.h"

namespace neox::testing {
namespace {

class Zero : public ::testing::Test {
 protected:
  std::unique_ptr<Communicator> world = make_world_communicator();
  std::unique_ptr<Communicator> alone = make_self_communicator();
  void expect(const FakeCase& what) { expect_all_stages(what, *world, *world, *alone); }
};

TEST_F(Zero, StagesEqualTheOracle) {
  FakeCase what;
  for (const std::int64_t micro_batches : {1, 3}) {
    for (const bool tied : {false, true}) {
      what.micro_batches = micro_batches;
      what.tied = tied;
      expect(what);
    }
  }
}

TEST_F(Zero, BucketsOfAnySize) {
  FakeCase what;
  what.micro_batches = 2;
  for (const std::int64_t elements : {1, 128, 1000, 1 << 20}) {
    what.bucket_elements = elements;
    expect(what);
  }
}

TEST_F(Zero, ChunksOfAPipeline) {
  FakeCase what;
  what.micro_batches = 3;
  what.pipelined = true;
  for (const bool tied : {false, true}) {
    what.tied = tied;
    expect(what);
  }
}

TEST_F(Zero, SixteenBitWeights) {
  FakeCase what;
  what.micro_batches = 2;
  what.compute = DType::bf16;
  for (const bool tied : {false, true}) {
    what.tied = tied;
    expect(what);
  }
}

TEST_F(Zero, SixteenBitExchange) {
  FakeCase what;
  what.exchange = DType::bf16;
  what.bucket_elements = 128;  // more buckets than messages in flight
  for (const std::int64_t micro_batches : {1, 3}) {
    what.micro_batches = micro_batches;
    what.tied = micro_batches == 3;
    expect(what);
  }
}

TEST_F(Zero, ClippingIsTheSameInAllStages) {
  std::vector<double> norms;
  std::vector<std::vector<float>> weights;
  for (int stage = 0; stage <= 3; ++stage) {
    FakeCase what;
    what.zero_stage = stage;
    what.clipping = 0.5;
    FakeModel fake(what, *world, *world, *alone);
    norms.push_back(fake.step());
    EXPECT_GT(norms.back(), 0.5);
    std::vector<float>& owned = weights.emplace_back();
    for (const StatePiece& piece : fake.store.owned_pieces()) {
      for (const float x : fake.store.piece(State::main, piece).span<float>()) owned.push_back(x);
    }
    EXPECT_EQ(norms[0], norms.back());
    EXPECT_EQ(weights[0], weights.back()) << "stage " << stage;
  }
}

TEST_F(Zero, SteadyStateAllocatesNothing) {
  for (int stage = 0; stage <= 3; ++stage) {
    for (const DType exchange : {DType::f32, DType::bf16}) {
      FakeCase what;
      what.zero_stage = stage;
      what.exchange = exchange;
      FakeModel fake(what, *world, *world, *alone);
      DataParallel& parallel = *fake.parallel;
      const auto step = [&] {
        parallel.begin_step(2);
        for (int m = 0; m < 2; ++m) {
          for (int b = 0; b < fake.store.block_count(); ++b) {
            parallel.weights_needed(b, false);
            parallel.weights_done(b);
          }
          for (int b = fake.store.block_count() - 1; b >= 0; --b) {
            parallel.weights_needed(b, true);
            parallel.gradients_needed(b);
            parallel.gradients_done(b);
            parallel.weights_done(b);
          }
        }
        parallel.finish_gradients();
      };
      for (int i = 0; i < 5; ++i) step();
      const std::int64_t heap = heap_calls(), device = allocation_counts().calls;
      for (int i = 0; i < 5; ++i) step();
      EXPECT_EQ(heap_calls(), heap) << "stage " << stage;
      EXPECT_EQ(allocation_counts().calls, device);
    }
  }
}

// Bytes a rank contributes to gathers of blocks [first, ...) in m micro-batches: every pass fetches
// every block, but at the turning points the two blocks that are there already.
std::int64_t gathered_in_blocks(const ParameterStore& store, int first, int micro_batches) {
  std::int64_t bytes = 0;
  const int end = store.block_count();
  for (int m = 0; m < micro_batches; ++m) {
    for (int b = m == 0 ? first : first + 2; b < end; ++b) bytes += store.block_range(b).size();
    for (int b = first; b < end - 2; ++b) bytes += store.block_range(b).size();
  }
  return bytes * 4 / store.plan().size;
}

// Bytes passed to the group in a step of m micro-batches.
TEST_F(Zero, TrafficIsTheLeast) {
  for (const bool tied : {false, true}) {
    for (int stage = 0; stage <= 3; ++stage) {
      FakeCase what;
      what.zero_stage = stage;
      what.micro_batches = 3;
      what.tied = tied;
      FakeModel fake(what, *world, *world, *alone);
      fake.step();
      fake.step();
      const Traffic reduce = world->traffic(Collective::reduce_scatter);
      const Traffic all = world->traffic(Collective::all_reduce);
      const Traffic gather = world->traffic(Collective::all_gather);
      fake.step();
      const std::int64_t whole = fake.store.numel() * 4;
      const std::int64_t table = tied ? fake.store.block_range(0).size() * 4 : 0;
      const std::int64_t norm = 16;  // the squares and the loss, f64
      const std::int64_t reduced = world->traffic(Collective::reduce_scatter).bytes - reduce.bytes;
      const std::int64_t gathered = world->traffic(Collective::all_gather).bytes - gather.bytes;
      EXPECT_EQ(world->traffic(Collective::all_reduce).bytes - all.bytes,
                (stage == 0 ? whole : 0) + norm);
      EXPECT_EQ(reduced, stage == 0 ? 0 : stage == 1 ? whole : 3 * (whole - table) + table);
      if (stage == 0) {
        EXPECT_EQ(gathered, 0);
      } else if (stage < 3) {
        EXPECT_EQ(gathered, whole / 2);
      } else {
        EXPECT_EQ(gathered, gathered_in_blocks(fake.store, tied ? 1 : 0, 3) + table / 2);
      }
    }
  }
}

TEST_F(Zero, AbsentBlocksAreAnError) {
  FakeCase what;
  what.zero_stage = 3;
  FakeModel fake(what, *world, *world, *alone);
  EXPECT_THROW(static_cast<void>(fake.store.weight(0)), Error);
  EXPECT_THROW(static_cast<void>(fake.store.grad(0)), Error);
  fake.parallel->weights_needed(0, false);
  EXPECT_NO_THROW(static_cast<void>(fake.store.weight(0)));
  fake.parallel->weights_done(0);
  EXPECT_THROW(static_cast<void>(fake.store.weight(0)), Error);
  EXPECT_THROW(fake.parallel->weights_done(0), Error);
  fake.parallel->begin_step(1);
  EXPECT_THROW(fake.parallel->gradients_done(0), Error);
}

TEST_F(Zero, AForgottenBlockIsAnError) {
  FakeCase what;
  FakeModel fake(what, *world, *world, *alone);
  fake.parallel->begin_step(1);
  for (int b = fake.store.block_count() - 1; b > 0; --b) {
    fake.parallel->gradients_needed(b);
    fake.parallel->gradients_done(b);
  }
  EXPECT_THROW(fake.parallel->finish_gradients(), Error);
  fake.parallel->gradients_needed(0);
  fake.parallel->gradients_done(0);
  EXPECT_NO_THROW(fake.parallel->finish_gradients());
  EXPECT_THROW(fake.parallel->gradients_done(0), Error);
}

}  // namespace
}  // namespace neox::testing
