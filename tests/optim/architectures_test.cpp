// Architectures beyond GPT-2 and GPT-NeoX: against transformers (tests/fixtures/architectures), and
// every gradient against differences of the loss.

#include <cmath>

#include <gtest/gtest.h>

#include "core/config/resolve.h"
#include "core/model/generator.h"
#include "core/model/init.h"
#include "core/model/rotary_frequencies.h"
#include "io/safetensors.h"
#include "tests/optim/model_fixture.h"

namespace neox {
namespace {

using testing::TestModel;
using testing::values;

constexpr const char* kFixtures = NEOX_SOURCE_DIR "/tests/fixtures/architectures/";

// max |a - b| / max |b|
double relative_error(const std::vector<float>& a, const std::vector<float>& b) {
  EXPECT_EQ(a.size(), b.size());
  double difference = 0, scale = 1e-30;
  for (std::size_t i = 0; i < a.size(); ++i) {
    difference = std::max(difference, std::abs(double{a[i]} - double{b[i]}));
    scale = std::max(scale, std::abs(double{b[i]}));
  }
  return difference / scale;
}

ModelConfig small_model() {
  ModelConfig m;
  m.num_layers = 2;
  m.hidden_size = 24;
  m.num_attention_heads = 4;
  m.seq_length = 12;
  m.vocab_size = 50;
  m.make_vocab_size_divisible_by = 1;
  m.init_method = m.output_layer_init_method = InitMethod::normal;
  m.init_method_std = 0.2;
  return m;
}

ModelConfig bloom() {
  ModelConfig m = small_model();
  m.vocab_size = 53;
  m.num_attention_heads = 6;
  m.pos_emb = PositionEmbedding::alibi;
  m.embedding_norm = true;
  m.activation = Activation::gelu_tanh;
  return m;
}

ModelConfig opt() {
  ModelConfig m = small_model();
  m.vocab_size = 47;
  m.intermediate_size = 40;
  m.max_position_embeddings = 16;
  m.pos_emb = PositionEmbedding::learned;
  m.opt_pos_emb_offset = 2;
  m.activation = Activation::relu;
  return m;
}

ModelConfig scaled() {
  ModelConfig m = small_model();
  m.norm = NormKind::scalenorm;
  m.pos_emb = PositionEmbedding::sinusoidal;
  m.activation = Activation::mish;
  m.embedding_norm = m.no_weight_tying = true;
  return m;
}

ModelConfig non_parametric() {
  ModelConfig m = small_model();
  m.norm = NormKind::non_parametric_layernorm;
  m.pos_emb = PositionEmbedding::alibi;
  m.activation = Activation::softsign;
  m.num_kv_heads = 2;
  m.gpt_j_residual = m.use_qk_layernorm = true;
  return m;
}

ModelConfig long_rope() {
  ModelConfig m = small_model();
  m.norm = NormKind::rmsnorm;
  m.rope_scaling = RopeScaling::yarn;
  m.rope_scaling_factor = 2;
  m.activation = Activation::squared_relu;
  m.gpt_j_residual = m.gpt_j_tied = m.use_qk_layernorm = true;
  return m;
}

ModelConfig windowed() {
  ModelConfig m = small_model();
  m.num_kv_heads = 2;
  m.attention_config = {"window", "global"};
  m.sliding_window_width = 3;
  return m;
}

struct Named {
  const char* name;
  ModelConfig (*make)();
};
const Named kAll[] = {{"bloom", bloom},         {"opt", opt},
                      {"scaled", scaled},       {"non_parametric", non_parametric},
                      {"long_rope", long_rope}, {"windowed", windowed}};

constexpr std::int64_t kBatch = 2, kSeq = 12;
constexpr std::size_t kRows = kBatch * kSeq;

ModelConfig resolved(const Named& of) {
  ModelConfig m = of.make();
  resolve_model(m);
  return m;
}

// ---- against transformers ----------------------------------------------------------------------

class Fixture : public ::testing::TestWithParam<Named> {};

TEST_P(Fixture, LogitsAndGradients) {
  const SafetensorsReader file(std::string(kFixtures) + GetParam().name + ".safetensors");
  TestModel test(resolved(GetParam()), kBatch, kSeq);
  ParameterStore& store = test.model.parameters();
  for (ParameterId id = 0; id < store.size(); ++id) {
    const auto from = file.read_f32("weights/" + store.spec(id).name, store.spec(id).global);
    std::copy(from.begin(), from.end(), store.main_shard(id).local.ptr<float>());
  }
  store.refresh_weights(*test.ops, *test.stream);
  const auto integers = [&](const char* name) {
    const OwnedTensor host({kBatch, kSeq}, DType::i32);
    file.read(name, host);
    const auto all = host.tensor.span<std::int32_t>();
    return std::vector<std::int32_t>(all.begin(), all.end());
  };
  test.set_batch(integers("tokens"), integers("labels"), std::vector<float>(kRows, 1.0f / kRows));
  const std::int64_t vocab = test.model.config().padded_vocab_size();
  const double logits =
      relative_error(test.logits(), file.read_f32("logits", {kBatch, kSeq, vocab}));
  EXPECT_LE(logits, 1e-5);
  test.forward_backward();
  double worst = 0;
  for (ParameterId id = 0; id < store.size(); ++id) {
    const double error =
        relative_error(values(store.grad(id)),
                       file.read_f32("grads/" + store.spec(id).name, store.spec(id).global));
    EXPECT_LE(error, 1e-4) << store.spec(id).name;
    worst = std::max(worst, error);
  }
  std::printf("    %s: logits %.1e, gradients %.1e\n", GetParam().name, logits, worst);
}

INSTANTIATE_TEST_SUITE_P(Transformers, Fixture, ::testing::Values(kAll[0], kAll[1]),
                         [](const auto& test) { return std::string(test.param.name); });

TEST(RotaryFrequencies, AreThoseOfTransformers) {
  const SafetensorsReader file(std::string(kFixtures) + "rope.safetensors");
  struct Case {
    const char* name;
    RopeScaling scaling;
    double factor;
  };
  for (const Case& of :
       {Case{"linear", RopeScaling::linear, 4}, Case{"ntk", RopeScaling::ntk, 3},
        Case{"yarn", RopeScaling::yarn, 4}, Case{"llama3", RopeScaling::llama3, 8}}) {
    ModelConfig m;
    m.hidden_size = 64;
    m.num_attention_heads = 2;
    m.rope_scaling = of.scaling;
    m.rope_scaling_factor = of.factor;
    m.rope_original_max_position = 64;
    const RotaryFrequencies ours = rotary_frequencies(m);
    const auto theirs = file.read_f32(std::string(of.name) + ".angles", {16});
    ASSERT_EQ(ours.angle.size(), theirs.size());
    for (std::size_t i = 0; i < theirs.size(); ++i) {
      EXPECT_NEAR(ours.angle[i], theirs[i], 2e-6 * theirs[i]) << of.name << " " << i;
    }
    EXPECT_NEAR(ours.amplitude, file.read_f32(std::string(of.name) + ".amplitude", {1})[0], 1e-6)
        << of.name;
  }
}

// ---- each architecture by itself ---------------------------------------------------------------

class Architecture : public ::testing::TestWithParam<Named> {
 protected:
  static void start(TestModel& test) {
    initialise_parameters(test.model.parameters(), test.model.config(), 7, *test.ops, *test.stream);
    ParameterStore& store = test.model.parameters();
    // Weights of norms must not all be 1, nor biases 0.
    for (ParameterId id = 0; id < store.size(); ++id) {
      float phase = 0.0f;
      for (float& w : store.main_shard(id).local.span<float>())
        w += 0.05f * std::sin(phase += 1.3f);
    }
    store.refresh_weights(*test.ops, *test.stream);
    std::vector<std::int32_t> tokens, labels;
    for (std::size_t i = 0; i < kRows; ++i) {
      tokens.push_back(static_cast<std::int32_t>(i * 17 % 43));
      labels.push_back(static_cast<std::int32_t>(i * 29 % 41));
    }
    test.set_batch(tokens, labels, std::vector<float>(kRows, 1.0f / kRows));
  }
};

TEST_P(Architecture, GradientsAreSlopesOfTheLoss) {
  ModelConfig model = resolved(GetParam());
  if (model.activation == Activation::relu) model.activation = Activation::gelu;  // no kinks
  TestModel test(model, kBatch, kSeq);
  start(test);
  test.forward_backward();
  ParameterStore& store = test.model.parameters();
  std::vector<std::vector<float>> gradients;
  for (ParameterId id = 0; id < store.size(); ++id) gradients.push_back(values(store.grad(id)));
  for (ParameterId id = 0; id < store.size(); ++id) {
    const auto& g = gradients[static_cast<std::size_t>(id)];
    double length = 0;
    for (const float x : g) length += double{x} * x;
    length = std::sqrt(length);
    const std::string& name = store.spec(id).name;
    if (length < 1e-4) {  // a key's bias has no effect without rotation
      EXPECT_EQ(name.find("weight"), std::string::npos) << name << " has no gradient";
      continue;
    }
    const auto weights = store.main_shard(id).local.span<float>();
    const std::vector<float> before(weights.begin(), weights.end());
    const double step = 1e-2;
    const auto loss_at = [&](double distance) {
      for (std::size_t i = 0; i < before.size(); ++i) {
        weights[i] = static_cast<float>(before[i] + distance * g[i] / length);
      }
      store.refresh_weights(*test.ops, *test.stream);
      return test.forward_backward();
    };
    const double slope =
        (8 * (loss_at(step) - loss_at(-step)) - (loss_at(2 * step) - loss_at(-2 * step))) /
        (12 * step);
    loss_at(0);
    EXPECT_NEAR(slope, length, 4e-3 * length + 2e-4) << name;
  }
}

TEST_P(Architecture, GradientsAreBitIdenticalHoweverTheyAreComputed) {
  const auto run = [](TestModel& test) {
    start(test);
    test.forward_backward();
    return values(test.model.parameters().grads());
  };
  const ModelConfig model = resolved(GetParam());
  TestModel plain(model, kBatch, kSeq);
  const auto expected = run(plain);
  for (const Recompute recompute : {Recompute::none, Recompute::selective, Recompute::full}) {
    for (const bool split : {false, true}) {
      TestModel other(model, kBatch, kSeq, DType::f32, recompute, split);
      EXPECT_EQ(run(other), expected)
          << "recompute " << static_cast<int>(recompute) << ", split backward " << split;
    }
  }
}

TEST_P(Architecture, Bfloat16IsNear) {
  const ModelConfig model = resolved(GetParam());
  TestModel exact(model, kBatch, kSeq), rounded(model, kBatch, kSeq, DType::bf16);
  start(exact);
  start(rounded);
  EXPECT_NEAR(rounded.forward_backward(), exact.forward_backward(), 0.05);
  EXPECT_LE(relative_error(values(rounded.model.parameters().grads()),
                           values(exact.model.parameters().grads())),
            0.2);
}

TEST_P(Architecture, GenerationWithTheCacheIsGenerationWithout) {
  TestModel test(resolved(GetParam()), kBatch, kSeq);
  start(test);
  const std::vector<std::int32_t> prompt = {5, 40, 0, 17};
  const auto generate = [&](bool recompute) {
    Generator generator(test.model, *test.ops, *test.stream, kSeq);
    GenerationOptions options;
    options.maximum_tokens = 8;
    options.recompute = recompute;
    std::vector<std::int32_t> all;
    generator.generate(prompt, options, [&](std::int32_t token) {
      all.push_back(token);
      return true;
    });
    return all;
  };
  EXPECT_EQ(generate(false), generate(true));
}

INSTANTIATE_TEST_SUITE_P(All, Architecture, ::testing::ValuesIn(kAll),
                         [](const auto& test) { return std::string(test.param.name); });

// ScaleNorm and sinusoidal positions have no fixture: their formulas, said again.
TEST(ScaleNorm, HasItsLength) {
  for (const double epsilon : {1e-8, 2.0}) {
    ModelConfig m = scaled();
    m.embedding_norm = false;
    m.num_layers = 1;
    m.scalenorm_epsilon = epsilon;
    resolve_model(m);
    TestModel test(m, 1, 1);
    ParameterStore& store = test.model.parameters();
    for (ParameterId id = 0; id < store.size(); ++id) {
      const auto weights = store.main_shard(id).local.span<float>();
      const std::string& name = store.spec(id).name;
      const bool head = name == "embed_out.weight", norm = name == "final_layer_norm.weight";
      for (std::size_t i = 0; i < weights.size(); ++i) {
        weights[i] = norm ? 1.5f : head && i / 24 == i % 24 ? 1.0f : 0.0f;
      }
    }
    store.refresh_weights(*test.ops, *test.stream);
    test.set_batch({3}, {4}, {1.0f});
    // The residual is the sinusoids of position 0: twelve times 0 and twelve times 1.
    const auto logits = test.logits();
    for (std::size_t i = 0; i < 24; ++i) {
      EXPECT_NEAR(logits[i], i < 12 ? 0.0 : 1.5 / std::sqrt(12.0 + epsilon * epsilon), 1e-6) << i;
    }
  }
}

}  // namespace
}  // namespace neox
