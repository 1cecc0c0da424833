#include <algorithm>
#include <iterator>
#include <string_view>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "core/base/error.h"
#include "core/model/hf_mapping.h"

namespace neox {
namespace {

using nlohmann::json;

class HfConfig {
 public:
  HfConfig(const std::string& text, std::string where) : where_(std::move(where)) {
    try {
      root_ = json::parse(text);
    } catch (const json::exception& e) {
      fail("{} is not valid JSON: {}", where_, e.what());
    }
    require(root_.is_object(), "{} does not hold a JSON object", where_);
  }

  template <class T>
  T get(const std::string& key) const {
    const auto found = root_.find(key);
    require(found != root_.end() && !found->is_null(), "{} lacks the key '{}'", where_, key);
    return convert<T>(key, *found);
  }
  template <class T>
  T get(const std::string& key, T fallback) const {
    const auto found = root_.find(key);
    return found == root_.end() || found->is_null() ? fallback : convert<T>(key, *found);
  }
  bool has(const std::string& key) const {
    const auto found = root_.find(key);
    return found != root_.end() && !found->is_null();
  }
  const json& at(const std::string& key) const { return root_.at(key); }
  const std::string& where() const { return where_; }

 private:
  template <class T>
  T convert(const std::string& key, const json& value) const {
    try {
      return value.get<T>();
    } catch (const json::exception&) {
      fail("{}: the value of '{}' is {}, which is not what this key takes", where_, key,
           value.dump());
    }
  }
  json root_;
  std::string where_;
};

Activation activation_from_hf(const HfConfig& config, const std::string& name) {
  if (name == "gelu") return Activation::gelu;
  if (name == "gelu_new" || name == "gelu_fast" || name == "gelu_pytorch_tanh") {
    return Activation::gelu_tanh;
  }
  if (name == "silu" || name == "swish") return Activation::silu;
  if (name == "relu") return Activation::relu;
  fail(
      "{}: the activation '{}' is not supported (gelu, gelu_new, gelu_fast, gelu_pytorch_tanh, "
      "silu, "
      "relu)",
      config.where(), name);
}

double rope_theta(const HfConfig& config, const std::string& old_key) {
  double theta = config.get<double>(old_key, 10000.0);
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    if (!config.has(key)) continue;
    const json& rope = config.at(key);
    require(rope.is_object(), "{}: {} is {}, expected an object", config.where(), key, rope.dump());
    const json type =
        rope.contains("rope_type") ? rope.at("rope_type") : rope.value("type", json("default"));
    require(type == "default", "{}: {} asks for positions of type {}, which is not supported",
            config.where(), key, type.dump());
    if (!rope.contains("rope_theta")) continue;
    require(rope.at("rope_theta").is_number(), "{}: {}.rope_theta is not a number", config.where(),
            key);
    theta = rope.at("rope_theta").get<double>();
  }
  return theta;
}

// Share of a head's channels that is rotated.
double rotary_share(const HfConfig& config, const std::string& old_key, double fallback) {
  const double share = config.get<double>(old_key, fallback);
  if (!config.has("rope_parameters")) return share;
  const json& rope = config.at("rope_parameters");
  if (!rope.is_object() || !rope.contains("partial_rotary_factor")) return share;
  require(rope.at("partial_rotary_factor").is_number(),
          "{}: rope_parameters.partial_rotary_factor is not a number", config.where());
  return rope.at("partial_rotary_factor").get<double>();
}

void refuse_unless(const HfConfig& config, const std::string& key, bool wanted) {
  require(config.get<bool>(key, wanted) == wanted, "{}: {} = {} is not supported", config.where(),
          key, !wanted);
}

void common(const HfConfig& config, ModelConfig& m) {
  m.vocab_size = config.get<std::int64_t>("vocab_size");
  m.make_vocab_size_divisible_by = 1;  // HF's vocabulary rows are all real
  m.init_method_std = config.get<double>("initializer_range", 0.02);
}

void gpt_neox(const HfConfig& config, ModelConfig& m) {
  m.hidden_size = config.get<std::int64_t>("hidden_size");
  m.num_layers = config.get<std::int64_t>("num_hidden_layers");
  m.num_attention_heads = config.get<std::int64_t>("num_attention_heads");
  m.num_kv_heads = m.num_attention_heads;
  m.intermediate_size = config.get<std::int64_t>("intermediate_size", 4 * m.hidden_size);
  m.max_position_embeddings = config.get<std::int64_t>("max_position_embeddings", 2048);
  m.layernorm_epsilon = config.get<double>("layer_norm_eps", 1e-5);
  m.activation = activation_from_hf(config, config.get<std::string>("hidden_act", "gelu"));
  m.pos_emb = PositionEmbedding::rotary;
  m.rotary_pct = rotary_share(config, "rotary_pct", 0.25);
  m.rotary_emb_base = rope_theta(config, "rotary_emb_base");
  m.gpt_j_residual = config.get<bool>("use_parallel_residual", true);
  m.no_weight_tying = !config.get<bool>("tie_word_embeddings", false);
  m.use_bias_in_attn_linear = config.get<bool>("attention_bias", true);
}

void gpt2(const HfConfig& config, ModelConfig& m) {
  m.hidden_size = config.get<std::int64_t>("n_embd");
  m.num_layers = config.get<std::int64_t>("n_layer");
  m.num_attention_heads = config.get<std::int64_t>("n_head");
  m.num_kv_heads = m.num_attention_heads;
  m.intermediate_size = config.get<std::int64_t>("n_inner", 4 * m.hidden_size);
  m.max_position_embeddings = config.get<std::int64_t>("n_positions", 1024);
  m.layernorm_epsilon = config.get<double>("layer_norm_epsilon", 1e-5);
  m.activation =
      activation_from_hf(config, config.get<std::string>("activation_function", "gelu_new"));
  m.pos_emb = PositionEmbedding::learned;
  m.no_weight_tying = !config.get<bool>("tie_word_embeddings", true);
  refuse_unless(config, "scale_attn_weights", true);
  refuse_unless(config, "scale_attn_by_inverse_layer_idx", false);
  refuse_unless(config, "add_cross_attention", false);
}

// What LLaMA, Mistral and Qwen2 have in common; biases are left out.
void llama_like(const HfConfig& config, ModelConfig& m) {
  m.hidden_size = config.get<std::int64_t>("hidden_size");
  m.num_layers = config.get<std::int64_t>("num_hidden_layers");
  m.num_attention_heads = config.get<std::int64_t>("num_attention_heads");
  m.num_kv_heads = config.get<std::int64_t>("num_key_value_heads", m.num_attention_heads);
  require(config.get<std::int64_t>(
              "head_dim", m.hidden_size / std::max<std::int64_t>(1, m.num_attention_heads)) *
                  m.num_attention_heads ==
              m.hidden_size,
          "{}: a head_dim other than hidden_size / num_attention_heads is not supported",
          config.where());
  m.intermediate_size = config.get<std::int64_t>("intermediate_size");
  m.max_position_embeddings = config.get<std::int64_t>("max_position_embeddings", 2048);
  m.norm = NormKind::rmsnorm;
  m.rms_norm_epsilon = config.get<double>("rms_norm_eps", 1e-6);
  m.activation = activation_from_hf(config, config.get<std::string>("hidden_act", "silu"));
  m.gated = true;
  m.pos_emb = PositionEmbedding::rotary;
  m.rotary_pct = rotary_share(config, "partial_rotary_factor", 1.0);
  m.rotary_emb_base = rope_theta(config, "rope_theta");
  m.no_weight_tying = !config.get<bool>("tie_word_embeddings", false);
  m.use_bias_in_attn_linear = m.use_bias_in_mlp = m.use_bias_in_norms = false;
}

void llama(const HfConfig& config, HfModel& result) {
  llama_like(config, result.model);
  result.model.use_bias_in_attn_linear = config.get<bool>("attention_bias", false);
  result.model.use_bias_in_mlp = config.get<bool>("mlp_bias", false);
}

// Within the window every earlier token is seen, so shorter sequences lose nothing without it.
void limit_to_window(const HfConfig& config, HfModel& result) {
  if (!config.has("sliding_window")) return;
  const auto window = config.get<std::int64_t>("sliding_window");
  std::int64_t& longest = result.model.max_position_embeddings;
  if (window <= 0 || window >= longest) return;
  result.notes.push_back(
      fmt::format("sliding_window = {} is not supported: max_position_embeddings becomes {} "
                  "instead of {}. Up to that length the model is the same",
                  window, window, longest));
  longest = window;
}

void mistral(const HfConfig& config, HfModel& result) {
  llama_like(config, result.model);
  limit_to_window(config, result);
  result.notes.push_back(
      "without its window this is LLaMA's architecture, and to-hf writes LlamaForCausalLM");
}

void qwen2(const HfConfig& config, HfModel& result) {
  llama_like(config, result.model);
  result.model.add_qkv_bias = true;
  if (config.get<bool>("use_sliding_window", false)) limit_to_window(config, result);
}

}  // namespace

HfModel model_from_hf_config(const std::string& text, const std::string& where) {
  struct Type {
    std::string_view name;
    HfFamily family;
    void (*read)(const HfConfig&, HfModel&);
  };
  static constexpr Type kTypes[] = {
      {"gpt_neox", HfFamily::gpt_neox,
       [](const HfConfig& c, HfModel& result) { gpt_neox(c, result.model); }},
      {"gpt2", HfFamily::gpt2, [](const HfConfig& c, HfModel& result) { gpt2(c, result.model); }},
      {"llama", HfFamily::llama, llama},
      {"mistral", HfFamily::llama, mistral},
      {"qwen2", HfFamily::qwen2, qwen2}};
  const HfConfig config(text, where);
  const auto name = config.get<std::string>("model_type");
  const auto* const type = std::find_if(std::begin(kTypes), std::end(kTypes),
                                        [&](const Type& t) { return t.name == name; });
  if (type == std::end(kTypes)) {
    std::string known;
    for (const Type& t : kTypes) known += fmt::format("{}{}", known.empty() ? "" : ", ", t.name);
    fail("{}: the model type '{}' is not supported; known are {}", where, name, known);
  }
  HfModel result;
  result.family = type->family;
  type->read(config, result);
  common(config, result.model);
  result.model.seq_length = result.model.max_position_embeddings;
  return result;
}

}  // namespace neox
