// Documents of one sample, and block-sparse layers, in a whole model.

#include <algorithm>

#include <gtest/gtest.h>

#include "core/config/resolve.h"
#include "core/model/generator.h"
#include "core/model/init.h"
#include "tests/optim/model_fixture.h"

namespace neox {
namespace {

using testing::TestModel;
using testing::values;

ModelConfig small_model(PositionEmbedding positions) {
  ModelConfig m;
  m.num_layers = 2;
  m.hidden_size = 32;
  m.num_attention_heads = 4;
  m.seq_length = 64;
  m.vocab_size = 50;
  m.pos_emb = positions;
  m.init_method = m.output_layer_init_method = InitMethod::normal;
  m.init_method_std = 0.2;
  return m;
}

std::vector<std::int32_t> tokens(std::int64_t count, std::int64_t first) {
  std::vector<std::int32_t> all;
  for (std::int64_t i = 0; i < count; ++i) {
    all.push_back(static_cast<std::int32_t>((i + first) * 17 % 43));
  }
  return all;
}

void start(TestModel& test, const std::vector<std::int32_t>& ids) {
  initialise_parameters(test.model.parameters(), test.model.config(), 7, *test.ops, *test.stream);
  test.set_batch(ids, tokens(static_cast<std::int64_t>(ids.size()), 5),
                 std::vector<float>(ids.size(), 0.1f));
}

double worst_difference(const std::vector<float>& a, const std::vector<float>& b) {
  EXPECT_EQ(a.size(), b.size());
  double worst = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    worst = std::max(worst, std::abs(double{a[i]} - double{b[i]}));
  }
  return worst;
}

// A document computes the same wherever it stands, and whatever stands before it.
class Documents : public ::testing::TestWithParam<PositionEmbedding> {};

TEST_P(Documents, AreAsIfTheyWereAlone) {
  ModelConfig model = small_model(GetParam());
  resolve_model(model);
  const std::vector<std::int64_t> lengths = {5, 1, 23, 35};
  std::vector<std::int32_t> begins, ids;
  for (const std::int64_t length : lengths) {
    const auto begin = static_cast<std::int32_t>(begins.size());
    begins.insert(begins.end(), static_cast<std::size_t>(length), begin);
  }
  for (std::size_t i = 0; i < begins.size(); ++i) {
    ids.push_back(static_cast<std::int32_t>(i * 31 % 47));
  }
  std::vector<std::int32_t> labels = tokens(64, 5);
  TestModel packed(model, 1, 64);
  start(packed, ids);
  // Relative positions are the same without a reset.
  const bool reset = GetParam() == PositionEmbedding::learned;
  packed.set_documents(begins, reset);
  packed.forward_backward();
  const std::vector<float> losses = packed.losses();
  std::vector<float> sums(packed.model.parameters().grads().numel());
  std::size_t at = 0;
  for (const std::int64_t length : lengths) {
    const auto from = ids.begin() + static_cast<long>(at);
    TestModel alone(model, 1, length);
    start(alone, {from, from + length});
    alone.set_batch(
        {from, from + length},
        {labels.begin() + static_cast<long>(at), labels.begin() + static_cast<long>(at) + length},
        std::vector<float>(static_cast<std::size_t>(length), 0.1f));
    alone.forward_backward();
    const std::vector<float> want = alone.losses();
    for (std::size_t i = 0; i < want.size(); ++i) {
      EXPECT_NEAR(losses[at + i], want[i], 2e-5) << "token " << at + i;
    }
    const std::vector<float> gradient = values(alone.model.parameters().grads());
    for (std::size_t i = 0; i < sums.size(); ++i) sums[i] += gradient[i];
    at += static_cast<std::size_t>(length);
  }
  EXPECT_LE(worst_difference(values(packed.model.parameters().grads()), sums), 2e-5);

  TestModel unmasked(model, 1, 64);
  start(unmasked, ids);
  unmasked.forward_backward();
  EXPECT_GT(worst_difference(unmasked.losses(), losses), 1e-2);  // it does matter
}

INSTANTIATE_TEST_SUITE_P(Positions, Documents,
                         ::testing::Values(PositionEmbedding::rotary, PositionEmbedding::learned,
                                           PositionEmbedding::alibi, PositionEmbedding::none),
                         [](const auto& test) {
                           return std::to_string(static_cast<int>(test.param));
                         });

ModelConfig sparse_model(const char* kind) {
  ModelConfig m = small_model(PositionEmbedding::rotary);
  m.num_kv_heads = 2;
  m.attention_config = {kind, "global"};
  m.sparse_num_local_blocks = 2;
  m.sparse_local_window_blocks = {1, 2};
  m.sparse_num_sliding_window_blocks = 1;
  m.sparse_num_random_blocks = 1;
  m.sparse_num_different_global_patterns = 2;
  m.sparse_different_layout_per_head = true;
  resolve_model(m);
  return m;
}

class SparseLayers : public ::testing::TestWithParam<const char*> {};

TEST_P(SparseLayers, GradientIsTheSlopeOfTheLoss) {
  TestModel test(sparse_model(GetParam()), 1, 64);
  start(test, tokens(64, 0));
  test.forward_backward();
  ParameterStore& store = test.model.parameters();
  const std::vector<float> gradient = values(store.grads());
  double length = 0;
  for (const float g : gradient) length += double{g} * g;
  length = std::sqrt(length);
  std::vector<std::vector<float>> slopes, before;
  for (ParameterId id = 0; id < store.size(); ++id) {
    slopes.push_back(values(store.grad(id)));
    before.push_back(values(store.main_shard(id).local));
  }
  const auto loss_at = [&](double distance) {
    for (ParameterId id = 0; id < store.size(); ++id) {
      const auto weights = store.main_shard(id).local.span<float>();
      for (std::size_t i = 0; i < weights.size(); ++i) {
        const auto p = static_cast<std::size_t>(id);
        weights[i] = static_cast<float>(before[p][i] + distance * slopes[p][i] / length);
      }
    }
    store.refresh_weights(*test.ops, *test.stream);
    return test.forward_backward();
  };
  const double step = 1e-2;
  const double slope =
      (8 * (loss_at(step) - loss_at(-step)) - (loss_at(2 * step) - loss_at(-2 * step))) /
      (12 * step);
  EXPECT_NEAR(slope, length, 2e-3 * length);
}

TEST_P(SparseLayers, DifferFromGlobalOnesAndGenerateWithTheCache) {
  const ModelConfig model = sparse_model(GetParam());
  TestModel sparse(model, 1, 64);
  start(sparse, tokens(64, 0));
  sparse.forward_backward();
  ModelConfig all = model;
  all.attention_config = {"global"};
  TestModel dense(all, 1, 64);
  start(dense, tokens(64, 0));
  dense.forward_backward();
  EXPECT_GT(worst_difference(sparse.losses(), dense.losses()), 1e-3);

  const auto generate = [&](bool recompute) {
    Generator generator(sparse.model, *sparse.ops, *sparse.stream, 64);
    GenerationOptions options;
    options.maximum_tokens = 30;
    options.recompute = recompute;
    std::vector<std::int32_t> made;
    generator.generate(tokens(30, 3), options, [&](std::int32_t token) {
      made.push_back(token);
      return true;
    });
    return made;
  };
  EXPECT_EQ(generate(false), generate(true));
}

INSTANTIATE_TEST_SUITE_P(Kinds, SparseLayers,
                         ::testing::Values("local", "sparse_fixed", "sparse_variable", "bigbird",
                                           "bslongformer"),
                         [](const auto& test) { return std::string(test.param); });

}  // namespace
}  // namespace neox
