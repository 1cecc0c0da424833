// Steps whose loss or gradient is not finite change nothing on any rank, and the message names the
// parameter.

#include <cmath>
#include <limits>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "comm/mpi.h"
#include "core/config/resolve.h"
#include "core/optim/finite_check.h"
#include "core/train/engine.h"

namespace neox::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr const char* kDense = "layers.1.attention.dense.weight";

// zero_stage, pipe_parallel_size, model_parallel_size
class FiniteCheck : public ::testing::TestWithParam<std::array<int, 3>> {
 protected:
  FiniteCheck() : world_(make_world_communicator()) {
    ModelConfig& m = config_.model;
    m.num_layers = 2;
    m.hidden_size = 32;
    m.num_attention_heads = 2;
    m.seq_length = 16;
    m.vocab_size = 100;
    config_.batch.train_batch_size = 4;
    config_.batch.train_micro_batch_size_per_gpu = 2;
    config_.train.train_iters = 10;
    config_.parallel.zero_stage = GetParam()[0];
    config_.parallel.pipe_parallel_size = GetParam()[1];
    config_.parallel.model_parallel_size = GetParam()[2];
    resolve(config_, world_->size());
    engine_.emplace(*world_, config_);
    engine_->initialise(1);
  }
  double step() { return step({}).grad_norm; }
  Engine::StepResult step(const Engine::StepLimits& limits) {
    std::vector<MicroBatch> batches(
        static_cast<std::size_t>(config_.batch.gradient_accumulation_steps));
    for (MicroBatch& batch : batches) {
      for (std::int64_t r = 0; r < 2 * config_.model.seq_length; ++r) {
        batch.tokens.push_back(static_cast<std::int32_t>(7 * r % 100));
        batch.labels.push_back(static_cast<std::int32_t>(3 * r % 100));
        batch.loss_mask.push_back(1.0f);
      }
    }
    return engine_->train_step(batches, 1e-3, 0, 1e-3, limits);
  }
  const ParameterStore& store() const { return engine_->model().parameters(); }
  std::string described() {
    return describe_non_finite_gradients(store(), engine_->ops(), engine_->stream(), *world_);
  }
  // Writes the last gradient element that the highest rank owns of the parameter; returns the rank.
  int spoil(const std::string& name, float value) {
    std::int64_t rank = -1;
    float* target = nullptr;
    for (ParameterId id = 0; id < store().size(); ++id) {
      if (store().spec(id).name != name || store().owned_pieces(id).empty()) continue;
      const StatePiece piece = store().owned_pieces(id).back().piece;
      target = store().piece(State::gradients, piece).ptr<float>() + piece.size - 1;
      rank = world_->rank();
    }
    const std::int64_t mine = rank;
    world_->host_all_reduce(std::span(&rank, 1), ReduceOp::max);
    if (mine == rank) *target = value;
    return static_cast<int>(rank);
  }
  std::vector<float> weights() const {
    std::vector<float> values;
    for (const StatePiece& piece : store().owned_pieces()) {
      const float* at = store().piece(State::main, piece).ptr<float>();
      values.insert(values.end(), at, at + piece.size);
    }
    return values;
  }

  std::unique_ptr<Communicator> world_;
  Config config_;
  std::optional<Engine> engine_;
};

TEST_P(FiniteCheck, NamesTheParameterAndItsRank) {
  EXPECT_TRUE(std::isfinite(step()));
  EXPECT_EQ(described(), "all gradients are finite");
  const int rank = spoil(kDense, std::numeric_limits<float>::quiet_NaN());
  ASSERT_GE(rank, 0);
  EXPECT_EQ(described(), fmt::format("the gradient of {} (rank {}) is not finite", kDense, rank));
  // Infinity in an earlier layer: now that is the first, and the other the last.
  const int earlier = spoil("layers.0.mlp.dense_h_to_4h.weight", -HUGE_VALF);
  EXPECT_THAT(described(), HasSubstr(fmt::format(
                               "layers.0.mlp.dense_h_to_4h.weight (rank {}) is not", earlier)));
  EXPECT_THAT(described(), HasSubstr(fmt::format("and {} (rank {}) the last", kDense, rank)));
  // Huge but finite is no fault.
  spoil(kDense, std::numeric_limits<float>::max());
  EXPECT_THAT(described(), Not(HasSubstr(kDense)));
}

TEST_P(FiniteCheck, OneRanksLossSkipsTheStepOnAll) {
  step();
  const std::vector<float> before = weights();
  const std::int64_t steps = engine_->optimizer().steps_taken();
  for (const double loss : {std::numeric_limits<double>::quiet_NaN(), HUGE_VAL, -HUGE_VAL}) {
    const UpdateResult result =
        engine_->optimizer().step(1e-3, {.loss = world_->rank() == 1 ? loss : 1.0});
    EXPECT_FALSE(result.applied);
    EXPECT_FALSE(std::isfinite(result.loss));
    EXPECT_TRUE(std::isfinite(result.grad_norm));
    EXPECT_EQ(weights(), before);
    EXPECT_EQ(engine_->optimizer().steps_taken(), steps);
  }
  const UpdateResult result = engine_->optimizer().step(1e-3, {.loss = 1.25});
  EXPECT_TRUE(result.applied);
  EXPECT_EQ(result.loss, 2.5);  // of two ranks
  EXPECT_NE(weights(), before);
}

// At a limit a step is still made; above it, nothing changes, on any rank.
TEST_P(FiniteCheck, LimitsDecideForAllRanks) {
  const Engine::StepResult usual = step({});
  ASSERT_TRUE(usual.applied);
  const std::vector<float> before = weights();
  const std::int64_t steps = engine_->optimizer().steps_taken();
  const Engine::StepResult next = step({.loss = 0.0});
  EXPECT_FALSE(next.applied);
  EXPECT_LT(next.loss, usual.loss);
  EXPECT_GT(next.loss, 0.0);
  const double below = std::nextafter(next.grad_norm, 0.0);
  EXPECT_FALSE(step({.grad_norm = below}).applied);
  EXPECT_FALSE(step({.loss = std::nextafter(next.loss, 0.0)}).applied);
  EXPECT_EQ(weights(), before);
  EXPECT_EQ(engine_->optimizer().steps_taken(), steps);
  const Engine::StepResult applied = step({.loss = next.loss, .grad_norm = next.grad_norm});
  EXPECT_TRUE(applied.applied);
  EXPECT_EQ(applied.loss, next.loss);
  EXPECT_NE(weights(), before);
  EXPECT_EQ(engine_->optimizer().steps_taken(), steps + 1);
}

INSTANTIATE_TEST_SUITE_P(Layouts, FiniteCheck,
                         ::testing::Values(std::array{0, 1, 1}, std::array{1, 1, 1},
                                           std::array{3, 1, 1}, std::array{0, 2, 1},
                                           std::array{0, 1, 2}));

}  // namespace
}  // namespace neox::testing
