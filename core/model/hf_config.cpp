#include <algorithm>
#include <cmath>
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
  HfConfig(json object, std::string where) : root_(std::move(object)), where_(std::move(where)) {
    require(root_.is_object(), "{} is {}, expected an object", where_, root_.dump());
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
  static constexpr std::pair<std::string_view, Activation> kNames[] = {
      {"gelu", Activation::gelu},
      {"gelu_new", Activation::gelu_tanh},
      {"gelu_fast", Activation::gelu_tanh},
      {"gelu_pytorch_tanh", Activation::gelu_tanh},
      {"silu", Activation::silu},
      {"swish", Activation::silu},
      {"relu", Activation::relu},
      {"relu2", Activation::squared_relu},
      {"mish", Activation::mish}};
  std::string known;
  for (const auto& [theirs, ours] : kNames) {
    if (theirs == name) return ours;
    known += fmt::format("{}{}", known.empty() ? "" : ", ", theirs);
  }
  fail("{}: the activation '{}' is not supported ({})", config.where(), name, known);
}

// ---- rotary positions ---------------------------------------------------------------------------

// Settings of rotary positions: rope_scaling, or rope_parameters of transformers 5.
HfConfig rope_of(const HfConfig& config) {
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    if (!config.has(key) || config.at(key).empty()) continue;
    HfConfig rope(config.at(key), fmt::format("{}: {}", config.where(), key));
    for (const auto& [name, value] : config.at(key).items()) {
      require(!value.is_object(), "{}: positions that differ by layer ('{}') are not supported",
              rope.where(), name);
    }
    return rope;
  }
  return {json::object(), config.where()};
}

// transformers divides one such number by another.
double yarn_amplitude(double factor, double scale) {
  return factor <= 1 ? 1.0 : 0.1 * scale * std::log(factor) + 1.0;
}

void read_yarn(const HfConfig& rope, ModelConfig& m) {
  const auto or_default = [&](const char* key, double fallback) {
    const auto value = rope.get<double>(key, fallback);
    return value == 0 ? fallback : value;
  };
  m.rope_scaling = RopeScaling::yarn;
  m.rope_scaling_factor = rope.get<double>(
      "factor", static_cast<double>(m.max_position_embeddings) /
                    static_cast<double>(std::max<std::int64_t>(1, m.rope_original_max_position)));
  m.rope_beta_fast = or_default("beta_fast", 32);
  m.rope_beta_slow = or_default("beta_slow", 1);
  const auto scale = rope.get<double>("mscale", 0), all = rope.get<double>("mscale_all_dim", 0);
  const double factor = m.rope_scaling_factor;
  const double amplitude =
      scale != 0 && all != 0 ? yarn_amplitude(factor, scale) / yarn_amplitude(factor, all) : 0.0;
  m.rope_attention_factor = rope.get<double>("attention_factor", amplitude);
  require(rope.get<bool>("truncate", true), "{}: truncate = false is not supported", rope.where());
}

// `m` has its max_position_embeddings. Some classes have keys of their own for what others (and
// transformers 5) have beside the scaling.
void read_rope(const HfConfig& config, const char* theta_key, const char* share_key, double share,
               ModelConfig& m) {
  const HfConfig rope = rope_of(config);
  m.pos_emb = PositionEmbedding::rotary;
  m.rotary_emb_base = rope.get<double>("rope_theta", config.get<double>(theta_key, 10000.0));
  m.rotary_pct = rope.get<double>("partial_rotary_factor", config.get<double>(share_key, share));
  const auto type =
      rope.get<std::string>("rope_type", rope.get<std::string>("type", std::string("default")));
  if (type == "default") return;
  if (type == "linear") {
    m.rope_scaling = RopeScaling::linear;
    m.rope_scaling_factor = rope.get<double>("factor");
  } else {
    const char* const original = "original_max_position_embeddings";
    m.rope_original_max_position = config.get<std::int64_t>(
        original, rope.get<std::int64_t>(original, m.max_position_embeddings));
    if (type == "llama3") {
      m.rope_scaling = RopeScaling::llama3;
      m.rope_scaling_factor = rope.get<double>("factor");
      m.rope_low_freq_factor = rope.get<double>("low_freq_factor");
      m.rope_high_freq_factor = rope.get<double>("high_freq_factor");
    } else if (type == "yarn") {
      read_yarn(rope, m);
    } else {
      fail("{}: positions of type '{}' are not supported (default, linear, llama3, yarn)",
           rope.where(), type);
    }
    require(m.rope_original_max_position > 0, "{}: {} = {}, expected a positive number",
            rope.where(), original, m.rope_original_max_position);
  }
  require(m.rope_scaling_factor >= 1, "{}: factor = {}, expected 1 or more", rope.where(),
          m.rope_scaling_factor);
}

// ---- families -----------------------------------------------------------------------------------

void refuse_unless(const HfConfig& config, const std::string& key, bool wanted) {
  require(config.get<bool>(key, wanted) == wanted, "{}: {} = {} is not supported", config.where(),
          key, !wanted);
}

void common(const HfConfig& config, ModelConfig& m) {
  m.vocab_size = config.get<std::int64_t>("vocab_size");
  m.make_vocab_size_divisible_by = 1;  // HF's vocabulary rows are all real
  m.init_method_std = config.get<double>("initializer_range", m.init_method_std);
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
  read_rope(config, "rotary_emb_base", "rotary_pct", 0.25, m);
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

void opt(const HfConfig& config, HfModel& result) {
  ModelConfig& m = result.model;
  m.hidden_size = config.get<std::int64_t>("hidden_size");
  m.num_layers = config.get<std::int64_t>("num_hidden_layers");
  m.num_attention_heads = config.get<std::int64_t>("num_attention_heads");
  m.num_kv_heads = m.num_attention_heads;
  m.intermediate_size = config.get<std::int64_t>("ffn_dim");
  m.max_position_embeddings = config.get<std::int64_t>("max_position_embeddings", 2048);
  m.activation = activation_from_hf(config, config.get<std::string>("activation_function", "relu"));
  m.pos_emb = PositionEmbedding::learned;
  m.opt_pos_emb_offset = 2;
  m.no_weight_tying = !config.get<bool>("tie_word_embeddings", true);
  m.init_method_std = config.get<double>("init_std", 0.02);
  m.use_bias_in_attn_linear = m.use_bias_in_mlp = config.get<bool>("enable_bias", true);
  if (!config.get<bool>("layer_norm_elementwise_affine", true)) {
    m.norm = NormKind::non_parametric_layernorm;
  }
  const auto width = config.get<std::int64_t>("word_embed_proj_dim", m.hidden_size);
  require(width == m.hidden_size,
          "{}: word_embed_proj_dim = {} and hidden_size = {}: projected embeddings (OPT-350m) are "
          "not supported",
          config.where(), width, m.hidden_size);
  require(config.get<bool>("do_layer_norm_before", true),
          "{}: do_layer_norm_before = false: norms behind attention and MLP (OPT-350m) are not "
          "supported",
          config.where());
  refuse_unless(config, "_remove_final_layer_norm", false);
}

// The value of the first of two names of a key that is there.
std::int64_t one_of(const HfConfig& config, const char* name, const char* other) {
  return config.get<std::int64_t>(config.has(name) ? name : other);
}

void bloom(const HfConfig& config, HfModel& result) {
  ModelConfig& m = result.model;
  m.hidden_size = one_of(config, "n_embed", "hidden_size");
  m.num_layers = one_of(config, "n_layer", "num_hidden_layers");
  m.num_attention_heads = one_of(config, "n_head", "num_attention_heads");
  m.num_kv_heads = m.num_attention_heads;
  m.intermediate_size = 4 * m.hidden_size;
  m.layernorm_epsilon = config.get<double>("layer_norm_epsilon", 1e-5);
  m.activation = Activation::gelu_tanh;
  m.pos_emb = PositionEmbedding::alibi;
  m.embedding_norm = true;
  m.no_weight_tying = !config.get<bool>("tie_word_embeddings", true);
  refuse_unless(config, "apply_residual_connection_post_layernorm", false);
  m.max_position_embeddings = config.get<std::int64_t>("seq_length", 2048);
  result.notes.push_back(
      fmt::format("max_position_embeddings is {} and may be changed: ALiBi has no longest sequence",
                  m.max_position_embeddings));
}

// What LLaMA, Mistral and Qwen have in common; biases are left out. `head_dim`: the class's
// default; 0: hidden_size / num_attention_heads.
void llama_like(const HfConfig& config, ModelConfig& m, std::int64_t head_dim = 0) {
  m.hidden_size = config.get<std::int64_t>("hidden_size");
  m.num_layers = config.get<std::int64_t>("num_hidden_layers");
  m.num_attention_heads = config.get<std::int64_t>("num_attention_heads");
  m.num_kv_heads = config.get<std::int64_t>("num_key_value_heads", m.num_attention_heads);
  const std::int64_t even = m.hidden_size / std::max<std::int64_t>(1, m.num_attention_heads);
  head_dim = config.get<std::int64_t>("head_dim", head_dim == 0 ? even : head_dim);
  require(head_dim * m.num_attention_heads == m.hidden_size,
          "{}: head_dim = {}; one other than hidden_size / num_attention_heads is not supported",
          config.where(), head_dim);
  m.intermediate_size = config.get<std::int64_t>("intermediate_size");
  m.max_position_embeddings = config.get<std::int64_t>("max_position_embeddings", 2048);
  m.norm = NormKind::rmsnorm;
  m.rms_norm_epsilon = config.get<double>("rms_norm_eps", 1e-6);
  m.activation = activation_from_hf(config, config.get<std::string>("hidden_act", "silu"));
  m.gated = true;
  read_rope(config, "rope_theta", "partial_rotary_factor", 1.0, m);
  m.no_weight_tying = !config.get<bool>("tie_word_embeddings", false);
  m.use_bias_in_attn_linear = m.use_bias_in_mlp = m.use_bias_in_norms = false;
}

void llama(const HfConfig& config, HfModel& result) {
  llama_like(config, result.model);
  result.model.use_bias_in_attn_linear = config.get<bool>("attention_bias", false);
  result.model.use_bias_in_mlp = config.get<bool>("mlp_bias", false);
}

// Of the layers that layer_types says, or else of those from `first` on. Theirs counts the query.
void read_window(const HfConfig& config, std::int64_t first, ModelConfig& m) {
  if (!config.has("sliding_window")) return;
  const auto window = config.get<std::int64_t>("sliding_window");
  require(window > 1, "{}: sliding_window = {}; expected at least 2", config.where(), window);
  std::vector<std::string> kinds;
  for (std::int64_t layer = 0; layer < m.num_layers; ++layer) {
    kinds.emplace_back(layer < first ? "global" : "window");
  }
  if (config.has("layer_types")) {
    kinds.clear();
    for (const auto& type : config.get<std::vector<std::string>>("layer_types")) {
      require(type == "full_attention" || type == "sliding_attention",
              "{}: layers of type {} are not supported", config.where(), type);
      kinds.emplace_back(type == "full_attention" ? "global" : "window");
    }
    require(static_cast<std::int64_t>(kinds.size()) == m.num_layers,
            "{}: layer_types has {} entries for {} layers", config.where(), kinds.size(),
            m.num_layers);
  }
  const auto windows = std::count(kinds.begin(), kinds.end(), "window");
  if (windows == 0) return;
  m.sliding_window_width = window - 1;
  if (windows < m.num_layers) m.attention_config = std::move(kinds);
}

void mistral(const HfConfig& config, HfModel& result) {
  llama_like(config, result.model);
  read_window(config, 0, result.model);
  if (result.model.sliding_window_width > 0) return;
  result.notes.push_back(
      "without a window this is LLaMA's architecture, and to-hf writes LlamaForCausalLM");
}

void qwen2(const HfConfig& config, HfModel& result) {
  llama_like(config, result.model);
  result.model.add_qkv_bias = true;
  if (config.get<bool>("use_sliding_window", false)) {
    read_window(config, config.get<std::int64_t>("max_window_layers", 28), result.model);
  }
}

void qwen3(const HfConfig& config, HfModel& result) {
  llama_like(config, result.model, 128);
  result.model.use_qk_layernorm = true;
  result.model.use_bias_in_attn_linear = config.get<bool>("attention_bias", false);
  if (config.get<bool>("use_sliding_window", false)) {
    read_window(config, config.get<std::int64_t>("max_window_layers", 28), result.model);
  }
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
      {"mistral", HfFamily::mistral, mistral},
      {"qwen2", HfFamily::qwen2, qwen2},
      {"qwen3", HfFamily::qwen3, qwen3},
      {"opt", HfFamily::opt, opt},
      {"bloom", HfFamily::bloom, bloom}};
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
