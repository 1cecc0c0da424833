#include "core/model/generator.h"

#include <fstream>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "core/config/resolve.h"
#include "core/model/hf_mapping.h"
#include "core/model/init.h"
#include "tests/support/h5_file.h"

namespace neox {
namespace {

struct InferenceModel {
  explicit InferenceModel(const ModelConfig& config, DType compute = DType::f32)
      : ops(make_backend(Device{})), stream(make_stream(Device{})), model(config) {
    model.commit(*ops, *stream, compute, StoreMode::inference);
  }
  std::vector<std::int32_t> continue_greedily(const std::vector<std::int32_t>& prompt,
                                              std::int64_t tokens, bool recompute) {
    Generator generator(model, *ops, *stream, model.config().max_position_embeddings);
    GenerationOptions options;
    options.maximum_tokens = tokens;
    options.recompute = recompute;
    std::vector<std::int32_t> all = prompt;
    generator.generate(prompt, options, [&](std::int32_t token) {
      all.push_back(token);
      return true;
    });
    return all;
  }
  std::unique_ptr<Backend> ops;
  std::unique_ptr<Stream> stream;
  Transformer model;
};

class GreedyParity : public ::testing::TestWithParam<const char*> {};

TEST_P(GreedyParity, CachedGenerationReproducesTheFixture) {
  const std::string base = std::string(NEOX_SOURCE_DIR "/tests/fixtures/parity/") + GetParam();
  std::ifstream config_file(base + "_hf/config.json");
  const std::string text((std::istreambuf_iterator<char>(config_file)), {});
  const HfModel hf = model_from_hf_config(text, "config.json");
  const testing::H5File file(base + ".h5");
  InferenceModel test(hf.model);
  ParameterStore& store = test.model.parameters();
  for (ParameterId id = 0; id < store.size(); ++id) {
    const auto from = assemble_from_hf(
        hf.family, hf.model, store.spec(id).name, store.spec(id).global,
        [&](const std::string& name, const Shape&) { return file.floats("/weights/" + name); });
    std::copy(from.begin(), from.end(), store.weight(id).ptr<float>());
  }
  const auto expected = file.ints("/greedy_tokens");
  const std::vector<std::int32_t> prompt(expected.begin(), expected.begin() + 5);
  const auto n = static_cast<std::int64_t>(expected.size()) - 5;
  EXPECT_EQ(test.continue_greedily(prompt, n, false), expected);
  EXPECT_EQ(test.continue_greedily(prompt, n, true), expected);
}

INSTANTIATE_TEST_SUITE_P(Models, GreedyParity, ::testing::Values("neox_tiny", "gpt2_tiny"),
                         [](const auto& param) { return std::string(param.param); });

ModelConfig llama_like() {
  ModelConfig m;
  m.num_layers = 2;
  m.hidden_size = 48;
  m.num_attention_heads = 6;
  m.num_kv_heads = 2;
  m.vocab_size = 100;
  m.seq_length = 32;
  m.norm = NormKind::rmsnorm;
  m.activation = Activation::silu;
  m.gated = true;
  m.use_bias_in_attn_linear = m.use_bias_in_mlp = m.use_bias_in_norms = false;
  m.no_weight_tying = true;
  m.init_method_std = 0.2;  // large, so that the arg-max is clear
  resolve_model(m);
  return m;
}

TEST(Generator, CacheEqualsRecomputationWithGroupedQueries) {
  InferenceModel test(llama_like());
  initialise_parameters(test.model.parameters(), test.model.config(), 3, *test.ops, *test.stream);
  const std::vector<std::int32_t> prompt = {5, 99, 0, 17};
  EXPECT_EQ(test.continue_greedily(prompt, 20, false), test.continue_greedily(prompt, 20, true));
}

TEST(Generator, EndsAreTold) {
  InferenceModel test(llama_like());
  initialise_parameters(test.model.parameters(), test.model.config(), 3, *test.ops, *test.stream);
  Generator generator(test.model, *test.ops, *test.stream, 16);
  const auto on_token = [](std::int32_t) { return true; };
  const std::vector<std::int32_t> prompt = {1, 2, 3};
  GenerationOptions options;
  options.maximum_tokens = 4;
  EXPECT_EQ(generator.generate(prompt, options, on_token), GenerationEnd::maximum_tokens);
  options.maximum_tokens = 100;
  EXPECT_EQ(generator.generate(prompt, options, on_token), GenerationEnd::context_full);
  EXPECT_EQ(generator.generate(prompt, options, [](std::int32_t) { return false; }),
            GenerationEnd::caller);
  std::int32_t first = -1;
  generator.generate(prompt, options, [&](std::int32_t token) {
    first = token;
    return false;
  });
  options.stop_token = first;
  EXPECT_EQ(generator.generate(prompt, options, on_token), GenerationEnd::stop_token);
  EXPECT_THROW(generator.generate({}, options, on_token), Error);
  EXPECT_THROW(generator.generate(std::vector<std::int32_t>{100}, options, on_token), Error);
  EXPECT_THROW(generator.generate(std::vector<std::int32_t>(16, 1), options, on_token), Error);
}

TEST(Generator, SamplesDependOnSeedAndStreamOnly) {
  InferenceModel test(llama_like(), DType::bf16);
  initialise_parameters(test.model.parameters(), test.model.config(), 3, *test.ops, *test.stream);
  Generator generator(test.model, *test.ops, *test.stream, 32);
  const auto sample = [&](std::uint64_t seed, std::uint64_t stream) {
    GenerationOptions options;
    options.sampling.temperature = 2.0;
    options.maximum_tokens = 16;
    options.seed = seed;
    options.stream = stream;
    std::vector<std::int32_t> tokens;
    generator.generate(std::vector<std::int32_t>{7}, options, [&](std::int32_t t) {
      tokens.push_back(t);
      return true;
    });
    return tokens;
  };
  EXPECT_EQ(sample(1, 0), sample(1, 0));
  EXPECT_NE(sample(1, 0), sample(1, 1));
  EXPECT_NE(sample(1, 0), sample(2, 0));
}

}  // namespace
}  // namespace neox
