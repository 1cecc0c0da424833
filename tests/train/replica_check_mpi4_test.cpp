// Copies of parameters stay equal bit for bit in training, and one flipped bit is found and named.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "comm/mpi.h"
#include "core/config/resolve.h"
#include "core/train/engine.h"

namespace neox::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

struct Layout {
  const char* name;
  int tensor, pipe, zero_stage;
  bool rows_sharded = true;
  DType precision = DType::f32;
  std::int64_t kv_heads = 4;
};

Config config_of(const Layout& layout) {
  Config config;
  ModelConfig& m = config.model;
  m.num_layers = 2;
  m.hidden_size = 32;
  m.num_attention_heads = 4;
  m.num_kv_heads = layout.kv_heads;
  m.seq_length = 8;
  m.vocab_size = 50;
  m.make_vocab_size_divisible_by = 4;
  m.hidden_dropout = 0.1;
  m.no_weight_tying = layout.pipe == 1;
  config.train.train_iters = 10;
  config.train.seed = 7;
  config.batch.train_batch_size = 8;
  config.batch.train_micro_batch_size_per_gpu = 1;
  config.precision.precision = layout.precision;
  config.parallel.model_parallel_size = layout.tensor;
  config.parallel.pipe_parallel_size = layout.pipe;
  config.parallel.zero_stage = layout.zero_stage;
  config.parallel.sequence_parallel = layout.rows_sharded;
  config.parallel.gradient_bucket_mb = 0.01;
  resolve(config, 4);
  return config;
}

class ReplicaCheckTest : public ::testing::Test {
 protected:
  void start(const Layout& layout) {
    config_ = config_of(layout);
    engine_.emplace(*world, config_);
    engine_->initialise(7);
  }

  Engine::StepResult step(const Engine::StepLimits& limits = {}) {
    const Communicator& data = engine_->topology().data();
    const std::int64_t count = 8 / data.size(), seq = config_.model.seq_length;
    std::vector<MicroBatch> batches(static_cast<std::size_t>(count));
    for (std::int64_t a = 0; a < count; ++a) {
      MicroBatch& batch = batches[static_cast<std::size_t>(a)];
      batch.first_sample = a * data.size() + data.rank();
      for (std::int64_t t = 0; t < seq; ++t) {
        const std::int64_t x = (steps_ * 8 + batch.first_sample) * 31 + t * 17;
        batch.tokens.push_back(static_cast<std::int32_t>(x * x % 50));
        batch.labels.push_back(static_cast<std::int32_t>((x + 3) * x % 50));
        batch.loss_mask.push_back(1.0f);
      }
    }
    const double scale = 1.0 / static_cast<double>(8 * seq);
    return engine_->train_step(batches, scale, steps_++, 1e-3, limits);
  }

  /// The check's message, the same on all ranks; empty: all is well.
  std::string check() {
    std::string message;
    try {
      engine_->check_replicas(steps_);
    } catch (const Error& error) {
      message = error.what();
    }
    EXPECT_THAT(world->host_all_gather(message), ::testing::Each(message));
    return message;
  }

  void flip(int rank, const std::string& parameter) {
    if (world->rank() != rank) return;
    const ParameterStore& store = engine_->model().parameters();
    const Tensor weight = store.weight(store.find(parameter));
    weight.data[weight.bytes() / 2] ^= std::byte{1};
  }

  std::unique_ptr<Communicator> world = make_world_communicator();
  Config config_;
  std::optional<Engine> engine_;
  std::int64_t steps_ = 0;
};

class EqualCopies : public ReplicaCheckTest, public ::testing::WithParamInterface<Layout> {};

TEST_P(EqualCopies, TrainingKeepsThem) {
  start(GetParam());
  EXPECT_EQ(check(), "");
  for (int i = 0; i < 3; ++i) step();
  EXPECT_EQ(check(), "");
}

INSTANTIATE_TEST_SUITE_P(
    Layouts, EqualCopies,
    ::testing::Values(
        Layout{"dp4", 1, 1, 0}, Layout{"dp4_bf16", 1, 1, 0, true, DType::bf16},
        Layout{"dp4_zero1", 1, 1, 1}, Layout{"dp4_zero2", 1, 1, 2}, Layout{"dp4_zero3", 1, 1, 3},
        Layout{"dp4_zero3_bf16", 1, 1, 3, true, DType::bf16}, Layout{"tp2_dp2", 2, 1, 0},
        Layout{"tp2_dp2_rows_whole", 2, 1, 1, false}, Layout{"tp2_dp2_zero3", 2, 1, 3},
        Layout{"tp4_kv2", 4, 1, 0, true, DType::f32, 2},
        Layout{"tp4_kv1_bf16", 4, 1, 0, false, DType::bf16, 1}, Layout{"pp2_dp2_tied", 1, 2, 0},
        Layout{"pp2_dp2_tied_zero1", 1, 2, 1}, Layout{"pp2_tp2_tied", 2, 2, 0}),
    [](const auto& param) { return std::string(param.param.name); });

// A step that is skipped on all ranks leaves equal copies; one rank that skips alone is named.
// (With ZeRO it would not join in gathering the weights: the watchdog names it.)
TEST_F(ReplicaCheckTest, AStepThatOneRankSkipsIsFound) {
  for (const Layout& layout :
       {Layout{"", 1, 1, 0}, Layout{"", 2, 1, 0}, Layout{"", 1, 2, 0}, Layout{"", 2, 2, 0}}) {
    start(layout);
    step();
    EXPECT_EQ(check(), "");
    EXPECT_FALSE(step({.loss = 1.0}).applied);
    EXPECT_EQ(check(), "");
    const bool alone = world->rank() == 2;
    const Engine::StepLimits one{.loss = 1.0};
    EXPECT_EQ(step(alone ? one : Engine::StepLimits{}).applied, !alone);
    EXPECT_THAT(check(), AllOf(HasSubstr("rank 2 ("), HasSubstr("differ")));
  }
}

TEST_F(ReplicaCheckTest, ADataRankThatDriftedIsNamed) {
  for (const int odd : {0, 3}) {
    for (const int zero_stage : {0, 1, 2}) {
      start({"", 1, 1, zero_stage});
      step();
      EXPECT_EQ(check(), "");
      flip(odd, "layers.1.mlp.dense_h_to_4h.weight");
      EXPECT_THAT(
          check(),
          AllOf(HasSubstr(fmt::format("after step {}", steps_)),
                HasSubstr(fmt::format("layers.1.mlp.dense_h_to_4h.weight: rank {} (", odd)),
                HasSubstr(odd == 0 ? ") differs from ranks 1-3 (" : ") differs from ranks 0-2 ("),
                HasSubstr(fmt::format("after step {} they were equal", steps_)),
                HasSubstr("checkpoint.iteration"), Not(HasSubstr("layers.0"))));
    }
  }
}

// Of the two tensor-parallel copies of a norm neither is in the majority; those of the other
// data-parallel rank decide.
TEST_F(ReplicaCheckTest, AllCopiesOfAReplicatedParameterVote) {
  start({"", 2, 1, 0});
  step();
  flip(2, "layers.0.input_layernorm.weight");
  EXPECT_THAT(check(), HasSubstr("layers.0.input_layernorm.weight: rank 2 ("));
}

TEST_F(ReplicaCheckTest, CopiesOfKeyValueHeads) {
  start({"", 4, 1, 0, true, DType::f32, 2});
  const ParameterStore& store = engine_->model().parameters();
  std::string key;
  for (ParameterId id = 0; id < store.size(); ++id) {
    if (store.spec(id).sum == GradientSum::key_value) key = store.spec(id).name;
  }
  flip(3, key);
  EXPECT_THAT(check(),
              AllOf(HasSubstr(key + " (from ["), HasSubstr("rank 2 ("), HasSubstr("and rank 3 ("),
                    HasSubstr("none is in the majority"), HasSubstr("this was the first check")));
}

TEST_F(ReplicaCheckTest, TiedCopiesOfTwoStages) {
  start({"", 1, 2, 0});
  flip(3, "embed_in.weight");
  EXPECT_THAT(check(),
              AllOf(HasSubstr("embed_in.weight: rank 3 ("), HasSubstr("differs from ranks 0-2 (")));
}

// The optimizer state drifts first: the weights of this step are still equal.
TEST_F(ReplicaCheckTest, OptimizerState) {
  start({"", 1, 1, 0, true, DType::bf16});
  step();
  if (world->rank() == 1) {
    const ParameterStore& store = engine_->model().parameters();
    const Shard state =
        store.whole_shard(State::optimizer0, store.find("layers.0.mlp.dense_4h_to_h.bias"));
    state.local.data[3] ^= std::byte{1};
  }
  EXPECT_THAT(check(), HasSubstr("layers.0.mlp.dense_4h_to_h.bias (optimizer state): rank 1 ("));
}

TEST_F(ReplicaCheckTest, ManyTensorsAreCounted) {
  start({"", 1, 1, 0});
  const ParameterStore& store = engine_->model().parameters();
  for (ParameterId id = 0; id < store.size(); ++id) flip(2, store.spec(id).name);
  EXPECT_THAT(check(), HasSubstr(fmt::format("and {} more tensors", store.size() - 8)));
}

}  // namespace
}  // namespace neox::testing
