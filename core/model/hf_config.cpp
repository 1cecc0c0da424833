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
  if (config.has("rope_scaling")) {
    fail("{}: rope_scaling is not supported", config.where());
  }
  if (config.has("rope_parameters")) {
    const auto& rope = config.at("rope_parameters");
    require(rope.value("rope_type", "default") == "default", "{}: rope_type '{}' is not supported",
            config.where(), rope.value("rope_type", ""));
    if (rope.contains("rope_theta")) return rope.at("rope_theta").get<double>();
  }
  return config.get<double>(old_key, 10000.0);
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
  m.rotary_pct = config.get<double>("rotary_pct", 0.25);
  if (config.has("rope_parameters")) {
    m.rotary_pct = config.at("rope_parameters").value("partial_rotary_factor", m.rotary_pct);
  }
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
}

void llama(const HfConfig& config, ModelConfig& m) {
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
  m.rotary_pct = 1.0;
  m.rotary_emb_base = rope_theta(config, "rope_theta");
  m.no_weight_tying = !config.get<bool>("tie_word_embeddings", false);
  m.use_bias_in_attn_linear = config.get<bool>("attention_bias", false);
  m.use_bias_in_mlp = config.get<bool>("mlp_bias", false);
  m.use_bias_in_norms = false;
}

}  // namespace

HfModel model_from_hf_config(const std::string& text, const std::string& where) {
  const HfConfig config(text, where);
  const auto type = config.get<std::string>("model_type");
  HfModel result;
  if (type == "gpt_neox") {
    result.family = HfFamily::gpt_neox;
    gpt_neox(config, result.model);
  } else if (type == "gpt2") {
    result.family = HfFamily::gpt2;
    gpt2(config, result.model);
  } else if (type == "llama") {
    result.family = HfFamily::llama;
    llama(config, result.model);
  } else {
    fail("{}: the model type '{}' is not supported (gpt_neox, gpt2, llama)", where, type);
  }
  common(config, result.model);
  result.model.seq_length = result.model.max_position_embeddings;
  return result;
}

}  // namespace neox
