// Every file of configs/: it resolves for the ranks it is made for, its model has exactly the
// published number of parameters, and its layout fits its hardware.
#include <algorithm>
#include <cctype>
#include <cmath>
#include <filesystem>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/config/parse.h"
#include "core/config/resolve.h"
#include "core/model/transformer.h"

namespace neox::testing {
namespace {

const std::string kFolder = NEOX_SOURCE_DIR "/configs/";

struct Shipped {
  const char* file;
  std::int64_t ranks;
  std::int64_t gigabytes;                         // of each rank's device; 0: no GPU in mind
  std::int64_t train_batch, accumulation;         // sequences a step, micro-batches a rank
  std::int64_t parameters = 0, no_embedding = 0;  // as published; 0: only known by its formula
};

// Published: of the Pythia suite and GPT-NeoX-20B the Hugging Face checkpoints (14M and 31M: all
// but the embeddings follow from the suite's table). GPT-NeoX's own files come without numbers, but
// some are the shape of a Pythia model, tensor by tensor; 6.7b has Pythia-6.9B's layers between
// smaller tables. GPT-2 small is counted in GptTwoSmall below.
const Shipped kShipped[] = {
    {"pythia/14m.ini", 32, 40, 1024, 1, 14067712, 1189888},
    {"pythia/31m.ini", 32, 40, 1024, 1, 30494720, 4739072},
    {"pythia/70m.ini", 32, 40, 1024, 1, 70426624, 18915328},
    {"pythia/160m.ini", 32, 40, 1024, 1, 162322944, 85056000},
    {"pythia/410m.ini", 32, 40, 1024, 1, 405334016, 302311424},
    {"pythia/1b.ini", 64, 40, 1024, 1, 1011781632, 805736448},
    {"pythia/1.4b.ini", 64, 40, 1024, 1, 1414647808, 1208602624},
    {"pythia/2.8b.ini", 64, 40, 1024, 1, 2775208960, 2517652480},
    {"pythia/6.9b.ini", 128, 40, 1024, 2, 6857302016, 6444163072},
    {"pythia/12b.ini", 256, 40, 1024, 2, 11846072320, 11327027200},
    {"neox-20b.ini", 96, 40, 1536, 32, 20554567680, 19934859264},
    {"neox/19m.ini", 32, 40, 1024, 1, 70426624, 18915328},
    {"neox/49m.ini", 32, 40, 1024, 1},
    {"neox/125m.ini", 8, 40, 256, 8, 162322944, 85056000},
    {"neox/350m.ini", 16, 40, 256, 4, 405334016, 302311424},
    {"neox/760m.ini", 32, 40, 256, 2},
    {"neox/800m.ini", 64, 40, 1024, 1, 1011781632, 805736448},
    {"neox/1.3b.ini", 64, 40, 512, 2, 1414647808, 1208602624},
    {"neox/2.7b.ini", 64, 40, 512, 2, 2775208960, 2517652480},
    {"neox/6.7b.ini", 128, 40, 1024, 4, 0, 6444163072},
    {"neox/13b.ini", 256, 40, 1024, 4},
    {"neox/175b.ini", 1024, 80, 1536, 96},
    {"gpt2-124m.ini", 8, 40, 512, 16},
    {"tiny_20b_layout.ini", 96, 0, 96, 8},
    {"tiny/neox.ini", 1, 0, 48, 12},
    {"tiny/gpt2.ini", 4, 0, 48, 3},
    {"tiny/llama.ini", 2, 0, 48, 6},
    {"quickstart.ini", 2, 0, 16, 1},
    {"llama-tiny.ini", 4, 0, 16, 1},
};

ParsedCommand read(const std::vector<std::string>& files) {
  std::vector<std::string> words = {"neox_train"};
  for (const std::string& file : files) {
    words.push_back("--config");
    words.push_back(kFolder + file);
  }
  std::vector<const char*> argv;
  for (const std::string& word : words) argv.push_back(word.c_str());
  const Program program{.name = "neox_train", .summary = "", .usage = "", .sections = {}};
  return parse_command_line(static_cast<int>(argv.size()), argv.data(), program);
}

Config load(const std::vector<std::string>& files, std::int64_t ranks) {
  const ParsedCommand command = read(files);
  EXPECT_THAT(command.notes, ::testing::IsEmpty());
  Config config = command.config;
  resolve(config, ranks, command.origins);
  if (config.model.vocab_size == 0) config.model.vocab_size = 4096;  // the quickstart's tokenizer
  return config;
}

struct Counts {
  std::int64_t all = 0, tables = 0;
};

// Of the model's parameters as they are registered; nothing is allocated.
Counts registered(const ModelConfig& model) {
  Counts counts;
  const Transformer transformer(model);
  const ParameterStore& store = transformer.parameters();
  for (ParameterId id = 0; id < store.size(); ++id) {
    const ParameterSpec& spec = store.spec(id);
    const std::int64_t size = spec.global.numel();
    counts.all += size;
    if (spec.name.starts_with("embed_")) counts.tables += size;
  }
  EXPECT_EQ(counts.all, store.parameter_count());
  return counts;
}

// From the papers: GPT has 12 h^2 + 13 h per layer and 2 h at the end; LLaMA 2 h^2 (1 + kv/n) +
// 3 h f + 2 h per layer and h at the end.
Counts by_formula(const ModelConfig& m) {
  const std::int64_t h = m.hidden_size, f = m.intermediate_size;
  Counts counts;
  counts.tables = (m.no_weight_tying ? 2 : 1) * m.padded_vocab_size() * h +
                  (m.pos_emb == PositionEmbedding::learned ? m.max_position_embeddings * h : 0);
  counts.all = counts.tables;
  if (m.gated) {
    const std::int64_t key_value = h * m.num_kv_heads / m.num_attention_heads;
    counts.all += m.num_layers * (2 * h * h + 2 * h * key_value + 3 * h * f + 2 * h) + h;
  } else {
    counts.all += m.num_layers * (12 * h * h + 13 * h) + 2 * h;
  }
  return counts;
}

TEST(ShippedConfigs, EveryFileIsListedHere) {
  std::set<std::string> files, listed;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(kFolder)) {
    const std::string name = std::filesystem::relative(entry.path(), kFolder).string();
    if (entry.path().extension() == ".ini" && !name.starts_with("data/")) files.insert(name);
  }
  for (const Shipped& shipped : kShipped) listed.insert(shipped.file);
  EXPECT_EQ(files, listed);
}

class ShippedConfig : public ::testing::TestWithParam<Shipped> {};

TEST_P(ShippedConfig, DividesItsBatchAmongItsRanks) {
  const Config config = load({GetParam().file}, GetParam().ranks);
  EXPECT_EQ(config.batch.train_batch_size, GetParam().train_batch);
  EXPECT_EQ(config.batch.gradient_accumulation_steps, GetParam().accumulation);
}

TEST_P(ShippedConfig, HasThePublishedNumberOfParameters) {
  const ModelConfig model = load({GetParam().file}, GetParam().ranks).model;
  const Counts counts = registered(model), formula = by_formula(model);
  EXPECT_EQ(counts.all, formula.all);
  EXPECT_EQ(counts.tables, formula.tables);
  if (GetParam().parameters > 0) {
    EXPECT_EQ(counts.all, GetParam().parameters);
  }
  if (GetParam().no_embedding > 0) {
    EXPECT_EQ(counts.all - counts.tables, GetParam().no_embedding);
  }
}

// Bytes on the fullest rank, rounded up: state (bf16 weights, f32 gradients, and 12 bytes of main
// weights and moments that ZeRO divides), activations (34 bytes per token and channel in a layer,
// Korthikanti et al. 2022; full recomputation keeps 2 of them and has one layer whole), logits.
double bytes_per_rank(const Config& config, std::int64_t ranks) {
  const ModelConfig& m = config.model;
  const ParallelConfig& p = config.parallel;
  const auto real = [](std::int64_t n) { return static_cast<double>(n); };
  const double h = real(m.hidden_size), tensor = real(p.model_parallel_size);
  const double stages = real(p.pipe_parallel_size), chunks = real(p.virtual_pipeline_size);
  const double layers = std::ceil(real(m.num_layers) / stages);
  const double parameters =
      (layers * (12 * h + 13) * h + real(m.padded_vocab_size()) * h * (stages > 1 ? 1 : 2)) /
      tensor;
  const double shared = p.zero_stage > 0 ? real(data_parallel_size(p, ranks)) : 1.0;
  const double state = parameters * (2 + 4 + 12 / shared);
  const double channel =
      real(config.batch.train_micro_batch_size_per_gpu * m.seq_length) * h / tensor;
  const double in_flight = stages + (chunks > 1 ? (stages - 1) / chunks : 0);
  const bool full = p.recompute == "full";
  const double activations = channel * ((full ? 2 : 34) * layers * in_flight + (full ? 34 : 0));
  const double logits = 2 * 4 * real(config.train.cross_entropy_chunk * m.padded_vocab_size());
  return state + activations + logits;
}

TEST_P(ShippedConfig, FitsItsHardware) {
  const Config config = load({GetParam().file}, GetParam().ranks);
  if (GetParam().gigabytes == 0) {
    EXPECT_LT(bytes_per_rank(config, GetParam().ranks), 2e9);
    return;
  }
  EXPECT_LT(bytes_per_rank(config, GetParam().ranks) / 1e9,
            0.9 * static_cast<double>(GetParam().gigabytes));
}

INSTANTIATE_TEST_SUITE_P(
    Model, ShippedConfig, ::testing::ValuesIn(kShipped), [](const auto& param) {
      std::string name = param.param.file;
      name.resize(name.size() - 4);
      std::replace_if(
          name.begin(), name.end(),
          [](char c) { return std::isalnum(static_cast<unsigned char>(c)) == 0; }, '_');
      return name;
    });

TEST(ShippedConfigs, GptTwoSmall) {  // published without padding of the vocabulary
  ModelConfig model = load({"gpt2-124m.ini"}, 1).model;
  model.make_vocab_size_divisible_by = 1;
  EXPECT_EQ(registered(model).all, 124439808);
}

TEST(ShippedConfigs, DataFilesComplete) {
  const std::pair<std::string, std::string> pairs[] = {{"neox-20b.ini", "pile.ini"},
                                                       {"pythia/14m.ini", "pythia-pile.ini"},
                                                       {"neox/125m.ini", "enwik8.ini"}};
  for (const auto& [model, data] : pairs) {
    const auto shipped = std::find_if(std::begin(kShipped), std::end(kShipped),
                                      [&](const Shipped& s) { return s.file == model; });
    const Config config = load({model, "data/" + data}, shipped->ranks);
    EXPECT_TRUE(!config.data.data_path.empty() || !config.data.train_data_paths.empty()) << data;
    EXPECT_FALSE(config.tokenizer.vocab_file.empty()) << data;
    EXPECT_EQ(config.model.num_layers, load({model}, shipped->ranks).model.num_layers);
  }
}

// What a file that only looked right would get wrong.
TEST(ShippedConfigs, AreTheArchitecturesTheyName) {
  for (const Shipped& shipped : kShipped) {
    SCOPED_TRACE(shipped.file);
    const std::string file = shipped.file;
    const Config config = load({file}, shipped.ranks);
    const ModelConfig& m = config.model;
    if (file.starts_with("pythia/") || file == "neox-20b.ini") {
      EXPECT_TRUE(m.gpt_j_residual && m.no_weight_tying);
      EXPECT_EQ(m.rotary_dim(), m.head_dim() / 4);
      EXPECT_EQ(m.activation, Activation::gelu_tanh);
    }
    if (file.starts_with("pythia/")) {
      const bool large = m.hidden_size >= 4096;
      EXPECT_EQ(m.init_method, large ? InitMethod::normal : InitMethod::small_init);
      EXPECT_EQ(m.output_layer_init_method,
                large ? InitMethod::scaled_normal : InitMethod::wang_init);
      EXPECT_EQ(config.batch.train_batch_size * m.seq_length * config.train.train_iters,
                299892736000);  // tokens, as published
      EXPECT_DOUBLE_EQ(config.schedule.min_lr, config.optimizer.lr / 10);
    }
    if (file.ends_with("llama.ini") || file == "llama-tiny.ini") {
      EXPECT_TRUE(m.norm == NormKind::rmsnorm && m.gated && m.num_kv_heads == 2);
    }
    if (file.find("gpt2") != std::string::npos) {
      EXPECT_TRUE(m.pos_emb == PositionEmbedding::learned && !m.no_weight_tying);
    }
  }
  const Config twenty = load({"neox-20b.ini"}, 96), tiny = load({"tiny_20b_layout.ini"}, 96);
  EXPECT_EQ(tiny.parallel, twenty.parallel);
}

}  // namespace
}  // namespace neox::testing
