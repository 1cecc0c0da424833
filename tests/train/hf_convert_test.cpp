// Hugging Face folders made by transformers (tests/fixtures/hf/make_fixtures.py): what this program
// computes from them, and the way into a checkpoint and back.

#include "core/train/hf_convert.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "core/model/generator.h"
#include "core/model/hf_import.h"
#include "core/train/hf_check.h"
#include "core/train/hf_files.h"
#include "core/train/run_state.h"
#include "io/safetensors.h"
#include "kernels/dry_run/dry_run_backend.h"

namespace neox {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::HasSubstr;
using ::testing::Not;

std::string fixture(const std::string& name) {
  return std::string(NEOX_SOURCE_DIR "/tests/fixtures/hf/") + name;
}

std::vector<std::int32_t> ints(const SafetensorsReader& reader, const char* name) {
  std::vector<std::int32_t> values(static_cast<std::size_t>(reader.at(name).shape.numel()));
  reader.read(name, Tensor(reinterpret_cast<std::byte*>(values.data()), reader.at(name).shape,
                           DType::i32, Device{}));
  return values;
}

// A folder that goes when the test ends.
class Folder {
 public:
  Folder() {
    std::string name = (fs::temp_directory_path() / "neox_hf_XXXXXX").string();
    require(mkdtemp(name.data()) != nullptr, "cannot create {}", name);
    path_ = name;
  }
  ~Folder() { fs::remove_all(path_); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  std::string operator()(const std::string& name) const { return (path_ / name).string(); }
  std::vector<std::string> names() const {
    std::vector<std::string> all;
    for (const auto& entry : fs::directory_iterator(path_)) all.push_back(entry.path().filename());
    return all;
  }
  /// A copy of a fixture, to be damaged.
  std::string copy_of(const std::string& name) const {
    const std::string to = (*this)("copy_" + name);
    fs::remove_all(to);
    fs::copy(fixture(name), to);
    return to;
  }

 private:
  fs::path path_;
};

// A model that computes in f32 on the CPU.
struct Model {
  Model(const ModelConfig& config, const WeightLoader& load)
      : ops(make_backend(Device{})), stream(make_stream(Device{})), transformer(config) {
    transformer.commit(*ops, *stream, DType::f32, StoreMode::inference);
    load(transformer, *ops, *stream);
  }

  std::vector<float> logits(const std::vector<std::int32_t>& ids) {
    const auto n = static_cast<std::int64_t>(ids.size());
    std::vector<std::int32_t> positions(ids.size());
    for (std::int32_t i = 0; i < n; ++i) positions[static_cast<std::size_t>(i)] = i;
    MicroBatchView batch{1, n, 0};
    batch.ids = host_view(ids);
    batch.positions = host_view(positions);
    const OwnedTensor out({n, transformer.config().padded_vocab_size()}, DType::f32);
    Arena keep(Device{}), recompute(Device{}), scratch(Device{});
    const DryRunBackend dry(Device{}, *ops);
    Transformer twin(transformer.config());
    twin.commit(dry, *stream, DType::f32, StoreMode::inference, true);
    twin.logits({dry, *stream, keep, recompute, scratch}, batch,
                Tensor(nullptr, out.tensor.shape, DType::f32, Device{}));
    keep.commit();
    recompute.commit();
    scratch.commit();
    transformer.logits({*ops, *stream, keep, recompute, scratch}, batch, out);
    const auto values = out.tensor.span<float>();
    return {values.begin(), values.end()};
  }

  std::vector<std::int32_t> greedy(std::vector<std::int32_t> prompt, std::int64_t count) {
    Generator generator(transformer, *ops, *stream, transformer.config().max_position_embeddings);
    GenerationOptions options;
    options.maximum_tokens = count;
    options.stop_token = -1;
    std::vector<std::int32_t> all = prompt;
    generator.generate(prompt, options, [&](std::int32_t token) {
      all.push_back(token);
      return true;
    });
    return all;
  }

  std::unique_ptr<Backend> ops;
  std::unique_ptr<Stream> stream;
  Transformer transformer;
};

class HfModels : public ::testing::TestWithParam<const char*> {
 protected:
  std::string source() const { return fixture(GetParam()); }
  bool is_bf16() const { return std::string(GetParam()).ends_with("bf16"); }

  // What transformers computed.
  void expect_same_function(Model& model, const char* which) const {
    const SafetensorsReader expected(source() + "/expected.safetensors");
    const Shape shape = expected.at("logits").shape;
    const std::vector<float> want = expected.read_f32("logits", shape);
    const std::vector<float> all = model.logits(ints(expected, "tokens"));
    const std::vector<float> have(all.end() - static_cast<std::ptrdiff_t>(want.size()), all.end());
    double difference = 0, scale = 0;
    for (std::size_t i = 0; i < want.size(); ++i) {
      difference = std::max(difference, std::abs(double{have[i]} - double{want[i]}));
      scale = std::max(scale, std::abs(double{want[i]}));
    }
    EXPECT_LE(difference, 1e-5 * scale) << which;
    std::printf("    %s, %s: logits differ by %.2e of the largest\n", GetParam(), which,
                difference / scale);
    const std::vector<std::int32_t> greedy = ints(expected, "greedy");
    EXPECT_EQ(model.greedy({greedy.begin(), greedy.begin() + 6}, 20), greedy) << which;
  }

  Folder folder_;
};

TEST_P(HfModels, ComputeWhatTransformersComputes) {
  const HfModel hf = read_hf_model(source());
  Model direct(hf.model, [&](Transformer& model, const Backend& ops, Stream& stream) {
    load_hf_weights(source(), hf.family, model, ops, stream);
  });
  expect_same_function(direct, "loaded");

  convert_from_hf(source(), folder_("run"), {});
  const auto self = make_self_communicator();
  CheckpointReader reader(*self, folder_("run/step0000000000.h5"));
  EXPECT_EQ(stored_config(reader).precision.precision, is_bf16() ? DType::bf16 : DType::f32);
  Model converted(stored_config(reader).model,
                  [&](Transformer& model, const Backend& ops, Stream& stream) {
                    load_run(reader, model, nullptr, LoadScope::weights_only, ops, stream);
                  });
  expect_same_function(converted, "converted");
}

TEST_P(HfModels, ComeBackByteForByte) {
  const std::string report = convert_from_hf(source(), folder_("run"), {});
  EXPECT_THAT(report, HasSubstr("self-check: largest difference 0 of "));
  const auto self = make_self_communicator();
  CheckpointReader reader(*self, folder_("run/step0000000000.h5"));
  for (const std::int64_t most : {std::int64_t{5'000'000'000}, std::int64_t{6000}}) {
    ToHfOptions options;
    options.max_shard_bytes = most;
    const std::string out = folder_("hf" + std::to_string(most));
    EXPECT_THAT(convert_to_hf(reader, out, options), HasSubstr("self-check: largest difference 0"));
    const SafetensorsReader before(source()), after(out);
    EXPECT_EQ(after.files().size() > 1, most == 6000);
    ASSERT_EQ(after.entries().size(), before.entries().size());
    for (const SafetensorsEntry& entry : before.entries()) {
      const SafetensorsEntry& back = after.at(entry.name);
      EXPECT_EQ(back.shape, entry.shape) << entry.name;
      ASSERT_EQ(back.dtype, entry.dtype) << entry.name;
      EXPECT_EQ(std::memcmp(back.data.data(), entry.data.data(), entry.data.size()), 0)
          << entry.name;
    }
  }
}

// Every setting of the source's config.json that the export writes has the source's value.
TEST_P(HfModels, ConfigComesBack) {
  convert_from_hf(source(), folder_("run"), {});
  const auto self = make_self_communicator();
  CheckpointReader reader(*self, folder_("run/step0000000000.h5"));
  convert_to_hf(reader, folder_("hf"), {});
  const json before = json::parse(read_text_file(source() + "/config.json"));
  const json after = json::parse(read_text_file(folder_("hf/config.json")));
  int compared = 0;
  for (const auto& [key, value] : before.items()) {
    if (!after.contains(key) || value.is_null()) continue;
    if (key.ends_with("_pdrop")) continue;  // dropout is the training run's business
    EXPECT_EQ(after.at(key), value) << key;
    ++compared;
  }
  EXPECT_GE(compared, 12);
  EXPECT_EQ(after.at("torch_dtype"), is_bf16() ? "bfloat16" : "float32");
  EXPECT_EQ(read_hf_model(folder_("hf")).model, read_hf_model(source()).model);
}

INSTANTIATE_TEST_SUITE_P(All, HfModels,
                         ::testing::Values("gpt_neox_f32", "gpt_neox_bf16", "gpt2_f32", "gpt2_bf16",
                                           "llama_f32", "llama_bf16", "mistral_bf16", "qwen2_f32",
                                           "qwen2_bf16", "llama3_f32", "neox_linear_bf16",
                                           "qwen3_bf16", "opt_f32", "opt_bf16", "bloom_f32",
                                           "bloom_bf16"),
                         [](const auto& param) { return std::string(param.param); });

// ---- other ways ---------------------------------------------------------------------------------

// f32 -> bf16 checkpoint -> float16 and float32 folders.
TEST(HfConvert, OtherTypes) {
  const Folder folder;
  FromHfOptions narrow;
  narrow.precision = DType::bf16;
  const std::string report = convert_from_hf(fixture("gpt2_f32"), folder("run"), narrow);
  EXPECT_THAT(report, HasSubstr("self-check: largest difference 0 "));
  EXPECT_THAT(report, HasSubstr("rounding the weights to bfloat16 changed logits by up to 0.0"));
  const auto self = make_self_communicator();
  CheckpointReader reader(*self, folder("run/step0000000000.h5"));
  const SafetensorsReader source(fixture("gpt2_f32"));
  for (const DType dtype : {DType::f16, DType::f32}) {
    ToHfOptions options;
    options.dtype = dtype;
    const std::string out = folder(std::string(name_of(dtype)));
    convert_to_hf(reader, out, options);
    const SafetensorsReader written(out);
    for (const SafetensorsEntry& entry : source.entries()) {
      ASSERT_EQ(written.at(entry.name).dtype, dtype);
      const auto want = source.read_f32(entry.name, entry.shape);
      const auto have = written.read_f32(entry.name, entry.shape);
      for (std::size_t i = 0; i < want.size(); ++i) {
        const auto rounded = static_cast<float>(bf16(want[i]));
        ASSERT_EQ(have[i], dtype == DType::f16 ? static_cast<float>(f16(rounded)) : rounded);
      }
    }
  }
}

TEST(HfConvert, FilesOfTheBareModelAndBuffers) {
  const Folder folder;
  const std::string source = folder.copy_of("gpt2_f32");
  const SafetensorsReader reader(fixture("gpt2_f32"));
  std::vector<NamedTensor> tensors;
  for (const SafetensorsEntry& entry : reader.entries()) {
    ASSERT_TRUE(entry.name.starts_with("transformer.")) << entry.name;
    tensors.push_back(
        {entry.name.substr(12), ConstTensor(entry.data.data(), entry.shape, entry.dtype, {})});
  }
  const std::vector<float> mask(4, 1.0f);
  tensors.push_back({"h.0.attn.bias", host_view(mask)});
  const SafetensorsEntry& table = reader.at("transformer.wte.weight");
  tensors.push_back(
      {"lm_head.weight", ConstTensor(table.data.data(), table.shape, table.dtype, {})});
  write_safetensors(source + "/model.safetensors", tensors);
  EXPECT_THAT(convert_from_hf(source, folder("run"), {}), HasSubstr("largest difference 0"));
  // A copy of the tied output layer that is none.
  std::vector<float> other = reader.read_f32(table.name, table.shape);
  other.back() += 1;
  tensors.back().tensor =
      ConstTensor(reinterpret_cast<const std::byte*>(other.data()), table.shape, DType::f32, {});
  write_safetensors(source + "/model.safetensors", tensors);
  EXPECT_THAT([&] { convert_from_hf(source, folder("run2"), {}); },
              ::testing::ThrowsMessage<Error>(HasSubstr("tie_word_embeddings")));
}

TEST(HfConvert, PaddedVocabularyIsCut) {
  const Folder folder;
  HfModel hf = read_hf_model(fixture("qwen2_f32"));
  Config config;
  config.model = hf.model;
  config.model.make_vocab_size_divisible_by = 16;  // 63 -> 64 rows
  const HfWeights weights(fixture("qwen2_f32"), hf.family);
  Model model(config.model, [&](Transformer& transformer, const Backend& ops, Stream&) {
    ParameterStore& store = transformer.parameters();
    for (const HfLink& link : hf_links(hf.family, hf.model)) {
      std::vector<std::byte> values;
      weights.read(link, DType::f32, values);
      const Tensor to = store.weight(store.find(link.parameter));
      std::memset(to.data, 0x41, to.bytes());
      std::memcpy(to.data, values.data(), values.size());
    }
    store.weights_changed(ops);
  });
  std::vector<CheckpointTensor> tensors;
  const ParameterStore& store = model.transformer.parameters();
  for (ParameterId id = 0; id < store.size(); ++id) {
    CheckpointTensor tensor{checkpoint_path("/model", store.spec(id).name), store.weight_shard(id)};
    tensor.write_end = tensor.shard.local.numel();
    tensors.push_back(std::move(tensor));
  }
  const auto self = make_self_communicator();
  std::string text;
  const CheckpointInfo info = checkpoint_info(
      config, config.model,
      "[model]\nnum_layers = 2\nhidden_size = 24\nnum_attention_heads = 3\nnum_kv_heads = 1\n"
      "intermediate_size = 20\nseq_length = 40\nvocab_size = 63\nmake_vocab_size_divisible_by = "
      "16\n"
      "norm = rmsnorm\nrms_norm_epsilon = 1e-6\nactivation = swiglu\nrotary_emb_base = 1000000\n"
      "use_bias_in_attn_linear = false\nadd_qkv_bias = true\nuse_bias_in_mlp = false\n"
      "use_bias_in_norms = false\n",
      {}, 0);
  save_checkpoint(*self, folder("run"), tensors, info);
  CheckpointReader reader(*self, folder("run/step0000000000.h5"));
  convert_to_hf(reader, folder("hf"), {});
  const SafetensorsReader before(fixture("qwen2_f32")), after(folder("hf"));
  EXPECT_EQ(after.at("model.embed_tokens.weight").shape, (Shape{63, 24}));
  for (const SafetensorsEntry& entry : before.entries()) {
    EXPECT_EQ(std::memcmp(after.at(entry.name).data.data(), entry.data.data(), entry.data.size()),
              0)
        << entry.name;
  }
}

TEST(HfConvert, TokenizerComesAlong) {
  const Folder folder;
  convert_from_hf(fixture("gpt_neox_f32"), folder("run"), {});
  const auto self = make_self_communicator();
  CheckpointReader reader(*self, folder("run/step0000000000.h5"));
  const TokenizerConfig t = stored_config(reader).tokenizer;
  EXPECT_EQ(t.tokenizer_type, "HFTokenizer");
  EXPECT_EQ(t.vocab_file, folder("run/tokenizer.json"));
  convert_to_hf(reader, folder("hf"), {});
  EXPECT_EQ(read_text_file(folder("hf/tokenizer.json")),
            read_text_file(fixture("gpt_neox_f32") + "/tokenizer.json"));
  const json config = json::parse(read_text_file(folder("hf/config.json")));
  EXPECT_EQ(config.at("eos_token_id"), 256);
  const json generation = json::parse(read_text_file(folder("hf/generation_config.json")));
  EXPECT_EQ(generation.at("eos_token_id"), 256);
  const json tokenizer = json::parse(read_text_file(folder("hf/tokenizer_config.json")));
  EXPECT_EQ(tokenizer.at("eos_token"), "<|endoftext|>");
  // The folder was moved: the tokenizer is found beside the checkpoint.
  fs::rename(folder("run"), folder("moved"));
  EXPECT_EQ(beside_checkpoint(t.vocab_file, folder("moved/step0000000000.h5")),
            folder("moved/tokenizer.json"));
}

// ---- what is refused ----------------------------------------------------------------------------

void edit_config(const std::string& folder, const std::function<void(json&)>& edit) {
  json config = json::parse(read_text_file(folder + "/config.json"));
  edit(config);
  write_text_file(folder + "/config.json", config.dump());
}

// Converting `source` fails with this text and leaves nothing.
void expect_refused(const Folder& folder, const std::string& source, const std::string& text) {
  const auto before = folder.names();
  EXPECT_THAT([&] { convert_from_hf(source, folder("out"), {}); },
              ::testing::ThrowsMessage<Error>(HasSubstr(text)));
  EXPECT_THAT(folder.names(), ::testing::UnorderedElementsAreArray(before));
}

TEST(HfRefuses, BrokenFolders) {
  const Folder folder;
  expect_refused(folder, folder("nowhere"), "is not a Hugging Face model folder");
  const std::string source = folder.copy_of("llama_f32");
  fs::remove(source + "/model-00002-of-00004.safetensors");
  expect_refused(folder, source, "model-00002-of-00004.safetensors");
  const std::string cut = folder.copy_of("gpt_neox_bf16");
  fs::resize_file(cut + "/model.safetensors", fs::file_size(cut + "/model.safetensors") - 1);
  expect_refused(folder, cut, "model.safetensors");
  fs::remove(cut + "/model.safetensors");
  expect_refused(folder, cut, "holds neither");
  write_text_file(cut + "/pytorch_model.bin", "x");
  expect_refused(folder, cut, "save_pretrained");
  write_text_file(cut + "/config.json", "{");
  expect_refused(folder, cut, "is not valid JSON");
}

TEST(HfRefuses, OtherModels) {
  const Folder folder;
  const std::string source = folder.copy_of("llama_bf16");
  const auto refused = [&](const std::function<void(json&)>& edit, const std::string& text) {
    fs::copy(fixture("llama_bf16") + "/config.json", source + "/config.json",
             fs::copy_options::overwrite_existing);
    edit_config(source, edit);
    expect_refused(folder, source, text);
  };
  refused([](json& c) { c["model_type"] = "mamba"; }, "the model type 'mamba' is not supported");
  refused(
      [](json& c) { c["vocab_size"] = 60; },
      "tensor 'model.embed_tokens.weight' has shape [59, 16], but config.json asks for [60, 16]");
  refused([](json& c) { c["num_hidden_layers"] = 1; },
          "holds tensors that the model of config.json does not have: model.layers.1.");
  refused([](json& c) { c["num_hidden_layers"] = 3; }, "model.layers.2.");
  refused([](json& c) { c["attention_bias"] = false; }, "self_attn.k_proj.bias");
  refused([](json& c) { c["head_dim"] = 8; }, "head_dim");
  refused([](json& c) { c["hidden_act"] = "selu"; }, "the activation 'selu' is not supported");
  refused([](json& c) { c["hidden_size"] = "wide"; }, "hidden_size");
  refused([](json& c) { c["num_attention_heads"] = 3; }, "num_attention_heads");
  refused([](json& c) { c.erase("hidden_size"); }, "lacks the key 'hidden_size'");
}

TEST(HfRefuses, OtherPositions) {
  const Folder folder;
  const std::string source = folder.copy_of("llama_bf16");
  const auto refused = [&](json rope, const std::string& text) {
    edit_config(source, [&](json& c) { c["rope_scaling"] = std::move(rope); });
    expect_refused(folder, source, text);
  };
  refused({{"rope_type", "longrope"}, {"factor", 8.0}},
          "rope_scaling: positions of type 'longrope' are not supported");
  refused({{"type", "dynamic"}, {"factor", 8.0}}, "positions of type 'dynamic'");
  refused({{"rope_type", "llama3"}, {"factor", 8.0}}, "lacks the key 'low_freq_factor'");
  refused({{"rope_type", "linear"}}, "lacks the key 'factor'");
  refused({{"rope_type", "linear"}, {"factor", 0.5}}, "factor = 0.5, expected 1 or more");
  refused({{"rope_type", "linear"}, {"factor", "8"}}, "the value of 'factor' is");
  refused({{"rope_type", "yarn"}, {"factor", 2.0}, {"truncate", false}}, "truncate = false");
  refused({{"rope_type", "yarn"}, {"original_max_position_embeddings", 0}}, "expected a positive");
  refused({{"rope_type", "llama3"},
           {"factor", 8.0},
           {"low_freq_factor", 4.0},
           {"high_freq_factor", 1.0}},
          "rope_high_freq_factor");
  refused({{"full_attention", {{"rope_type", "default"}}}}, "positions that differ by layer");
  refused("yarn", "rope_scaling is \"yarn\", expected an object");
}

TEST(HfRefuses, OtherOptModels) {
  const Folder folder;
  const std::string source = folder.copy_of("opt_f32");
  const auto refused = [&](const char* key, json value, const std::string& text) {
    fs::copy(fixture("opt_f32") + "/config.json", source + "/config.json",
             fs::copy_options::overwrite_existing);
    edit_config(source, [&](json& c) { c[key] = std::move(value); });
    expect_refused(folder, source, text);
  };
  refused("word_embed_proj_dim", 8, "projected embeddings (OPT-350m) are not supported");
  refused("do_layer_norm_before", false, "norms behind attention and MLP (OPT-350m)");
  refused("_remove_final_layer_norm", true, "_remove_final_layer_norm = true is not supported");
  refused("enable_bias", false, "holds tensors that the model of config.json does not have");
}

// ---- scaled rotary positions --------------------------------------------------------------------

// What transformers writes in other ways.
TEST(HfRope, OtherSpellings) {
  const Folder folder;
  const std::string source = folder.copy_of("llama3_f32");
  const ModelConfig want = read_hf_model(source).model;
  ASSERT_EQ(want.rope_scaling, RopeScaling::llama3);
  edit_config(source, [](json& c) {  // before transformers 5
    c["rope_scaling"] = c.at("rope_parameters");
    c["rope_theta"] = c.at("rope_scaling").at("rope_theta");
    c["rope_scaling"]["type"] = "llama3";
    for (const char* key : {"rope_theta", "rope_type"}) c["rope_scaling"].erase(key);
    c.erase("rope_parameters");
  });
  EXPECT_EQ(read_hf_model(source).model, want);

  const auto yarn = [&](json rope) {
    rope["rope_type"] = "yarn";
    edit_config(source, [&](json& c) { c["rope_scaling"] = rope; });
    return read_hf_model(source).model;
  };
  // Left out: the length is that of the model, the factor their ratio.
  EXPECT_EQ(yarn({{"factor", 4.0}}).rope_original_max_position, want.max_position_embeddings);
  EXPECT_EQ(yarn({{"original_max_position_embeddings", 10}}).rope_scaling_factor, 4.0);
  const json deepseek = {{"factor", 40.0}, {"mscale", 0.707}, {"mscale_all_dim", 1.0}};
  EXPECT_DOUBLE_EQ(yarn(deepseek).rope_attention_factor,
                   (0.1 * 0.707 * std::log(40.0) + 1) / (0.1 * std::log(40.0) + 1));
}

// Static NTK scaling is another base; transformers has no name for it.
TEST(HfRope, NtkIsWrittenAsItsBase) {
  ModelConfig m = read_hf_model(fixture("llama_f32")).model;
  const HfTokenIds ids;
  m.rope_scaling = RopeScaling::ntk;
  m.rope_scaling_factor = 3;  // 4 channels: 10000 * 3^2
  const ModelConfig back =
      model_from_hf_config(hf_config_text(hf_family_of(m), m, "float32", ids), "export").model;
  EXPECT_DOUBLE_EQ(back.rotary_emb_base, 90000.0);
  EXPECT_EQ(back.rope_scaling, RopeScaling::none);
}

TEST(HfRefuses, FoldersInUse) {
  const Folder folder;
  fs::create_directory(folder("full"));
  write_text_file(folder("full/file"), "x");
  EXPECT_THAT([&] { convert_from_hf(fixture("qwen2_bf16"), folder("full"), {}); },
              ::testing::ThrowsMessage<Error>(HasSubstr("is not empty")));
  EXPECT_THAT([&] { convert_from_hf(fixture("qwen2_bf16"), folder("full/file"), {}); },
              ::testing::ThrowsMessage<Error>(HasSubstr("is not a folder")));
  fs::create_directory(folder("empty"));
  convert_from_hf(fixture("qwen2_bf16"), folder("empty/"), {});
  EXPECT_TRUE(fs::exists(folder("empty/step0000000000.h5")));
  EXPECT_THAT(folder.names(), ::testing::UnorderedElementsAre("full", "empty"));
}

TEST(HfRefuses, WeightsThatTheTypeCannotHold) {
  const Folder folder;
  const std::string source = folder.copy_of("gpt2_bf16");
  const SafetensorsReader reader(fixture("gpt2_bf16"));
  std::vector<NamedTensor> tensors;
  std::vector<bf16> huge(16);
  huge[3] = bf16(1e30f);
  for (const SafetensorsEntry& entry : reader.entries()) {
    const bool replaced = entry.name == "transformer.ln_f.bias";
    tensors.push_back(
        {entry.name, replaced ? host_view(huge)
                              : ConstTensor(entry.data.data(), entry.shape, entry.dtype, {})});
  }
  write_safetensors(source + "/model.safetensors", tensors);
  convert_from_hf(source, folder("run"), {});
  const auto self = make_self_communicator();
  CheckpointReader file(*self, folder("run/step0000000000.h5"));
  ToHfOptions options;
  options.dtype = DType::f16;
  EXPECT_THAT([&] { convert_to_hf(file, folder("hf"), options); },
              ::testing::ThrowsMessage<Error>(HasSubstr("too large for float16")));
  EXPECT_FALSE(fs::exists(folder("hf")));
}

// The self-check finds it when everything is written; nothing stays.
TEST(HfRefuses, WeightsThatAreNoNumbers) {
  const Folder folder;
  const std::string source = folder.copy_of("gpt2_bf16");
  const SafetensorsReader reader(fixture("gpt2_bf16"));
  std::vector<NamedTensor> tensors;
  const std::vector<bf16> none(16, bf16(NAN));
  for (const SafetensorsEntry& entry : reader.entries()) {
    const bool replaced = entry.name == "transformer.ln_f.bias";
    tensors.push_back(
        {entry.name, replaced ? host_view(none)
                              : ConstTensor(entry.data.data(), entry.shape, entry.dtype, {})});
  }
  write_safetensors(source + "/model.safetensors", tensors);
  expect_refused(folder, source, "self-check: the model's logits are not finite");
  FromHfOptions unchecked;
  unchecked.check = false;
  EXPECT_THAT(convert_from_hf(source, folder("out"), unchecked), HasSubstr("SKIPPED"));
}

TEST(HfRefuses, ModelsWithoutAClass) {
  ModelConfig m = read_hf_model(fixture("llama_f32")).model;
  EXPECT_EQ(hf_family_of(m), HfFamily::llama);
  m.rotary_pct = 0.5;
  try {
    hf_family_of(m);
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("LlamaForCausalLM: it rotates all channels of a head"));
    EXPECT_THAT(error.what(), HasSubstr("GPTNeoXForCausalLM: it has layernorm only"));
  }
  m = read_hf_model(fixture("gpt_neox_f32")).model;
  m.gpt_j_tied = true;
  EXPECT_THROW(hf_family_of(m), Error);
  m = read_hf_model(fixture("gpt2_f32")).model;
  EXPECT_EQ(hf_family_of(m), HfFamily::gpt2);
  m.use_bias_in_attn_linear = false;
  EXPECT_THROW(hf_family_of(m), Error);
  m = read_hf_model(fixture("qwen2_f32")).model;
  EXPECT_EQ(hf_family_of(m), HfFamily::qwen2);
}

// Each of these alone leaves no class.
TEST(HfRefuses, PartsWithoutAClass) {
  const auto refused = [](const char* name, const std::function<void(ModelConfig&)>& change,
                          const std::string& text) {
    ModelConfig m = read_hf_model(fixture(name)).model;
    EXPECT_NO_THROW(hf_family_of(m)) << name;
    change(m);
    EXPECT_THAT([&] { hf_family_of(m); }, ::testing::ThrowsMessage<Error>(HasSubstr(text))) << name;
  };
  using M = ModelConfig;
  refused(
      "gpt2_f32", [](M& m) { m.activation = Activation::softsign; },
      "GPT2LMHeadModel: it does not have this activation");
  refused(
      "gpt2_f32", [](M& m) { m.embedding_norm = true; },
      "GPT2LMHeadModel: it has no embedding_norm");
  refused(
      "gpt2_f32", [](M& m) { m.opt_pos_emb_offset = 1; },
      "GPT2LMHeadModel: it has no opt_pos_emb_offset");
  refused(
      "gpt_neox_f32", [](M& m) { m.use_qk_layernorm = true; },
      "GPTNeoXForCausalLM: it has no use_qk_layernorm");
  refused(
      "gpt_neox_f32", [](M& m) { m.norm = NormKind::scalenorm; },
      "GPTNeoXForCausalLM: it has layernorm only");
  refused(
      "bloom_f32", [](M& m) { m.embedding_norm = false; },
      "BloomForCausalLM: it has embedding_norm");
  refused(
      "bloom_f32", [](M& m) { m.activation = Activation::gelu; },
      "BloomForCausalLM: its activation is gelu_tanh");
  refused(
      "bloom_f32", [](M& m) { m.intermediate_size /= 2; }, "four times as wide");
  refused(
      "opt_f32", [](M& m) { m.layernorm_epsilon = 1e-6; },
      "OPTForCausalLM: its layernorm_epsilon is 1e-5");
  refused(
      "opt_f32", [](M& m) { m.use_bias_in_mlp = false; },
      "OPTForCausalLM: attention and MLP have biases, or neither");
  refused(
      "llama3_f32", [](M& m) { m.rope_original_max_position = 0, m.rope_scaling_factor = 3; },
      "LlamaForCausalLM: its length before rope_scaling is a whole number");
}

TEST(HfCheck, SeesADifference) {
  const std::vector<float> a = {1, -8, 3};
  EXPECT_THAT(compare_logits(a, a), HasSubstr("difference 0 of 3 logits up to 8"));
  EXPECT_THROW(compare_logits(a, {1, -8, 3.001f}), Error);
  EXPECT_THROW(compare_logits(a, {1, -8, NAN}), Error);
}

TEST(HfConvert, Sizes) {
  EXPECT_EQ(parse_byte_count("5GB"), 5'000'000'000);
  EXPECT_EQ(parse_byte_count("2GiB"), std::int64_t{2} << 30);
  EXPECT_EQ(parse_byte_count("0.5MB"), 500'000);
  EXPECT_EQ(parse_byte_count("1234"), 1234);
  for (const char* wrong : {"", "GB", "0", "-1GB", "5 GB", "5gigs", "nan"}) {
    EXPECT_THROW(parse_byte_count(wrong), Error) << wrong;
  }
}

}  // namespace
}  // namespace neox
