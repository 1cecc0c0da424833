// config.json for a model, and which class can represent it.

#include <algorithm>
#include <cmath>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "core/base/error.h"
#include "core/config/attention_kinds.h"
#include "core/model/hf_mapping.h"
#include "core/model/rotary_frequencies.h"

namespace neox {
namespace {

using nlohmann::ordered_json;

// Collects what a class cannot represent.
class Reasons {
 public:
  void unless(bool ok, std::string_view reason) {
    if (ok) return;
    text_ += text_.empty() ? "" : ", ";
    text_ += reason;
  }
  const std::string& text() const { return text_; }

 private:
  std::string text_;
};

// What is alike in all classes but those that it is the mark of.
void check_common(HfFamily family, const ModelConfig& m, Reasons& r) {
  const bool known = m.activation != Activation::softsign && m.activation != Activation::sigmoid &&
                     m.activation != Activation::identity;
  r.unless(known, "it does not have this activation");
  r.unless(family == HfFamily::bloom || !m.embedding_norm, "it has no embedding_norm");
  r.unless(family == HfFamily::qwen3 || !m.use_qk_layernorm, "it has no use_qk_layernorm");
  r.unless(family == HfFamily::opt || m.opt_pos_emb_offset == 0, "it has no opt_pos_emb_offset");
  r.unless(!has_sparse_attention(m), "it has no block-sparse attention");
  const bool windows = family == HfFamily::mistral || family == HfFamily::qwen2 ||
                       family == HfFamily::qwen3 || !has_attention(m, AttentionKind::window);
  r.unless(windows, "it has no sliding window");
}

void check_mlp_and_heads(const ModelConfig& m, Reasons& r) {
  r.unless(!m.gated, "its MLP is not gated");
  r.unless(m.num_kv_heads == m.num_attention_heads, "it has no grouped-query attention");
}

void check_layernorm_model(const ModelConfig& m, Reasons& r) {
  r.unless(m.norm == NormKind::layernorm, "it has layernorm only");
  r.unless(m.use_bias_in_norms, "its layernorms have biases");
  check_mlp_and_heads(m, r);
  r.unless(m.use_bias_in_mlp, "its MLP has biases");
}

void check_rope_scaling(const ModelConfig& m, Reasons& r) {
  const bool stored = m.rope_scaling == RopeScaling::yarn || m.rope_scaling == RopeScaling::llama3;
  const double length = rope_original_length(m);
  r.unless(!stored || length == std::floor(length),
           "its length before rope_scaling is a whole number");
}

void check_gpt_neox(const ModelConfig& m, Reasons& r) {
  check_layernorm_model(m, r);
  r.unless(m.pos_emb == PositionEmbedding::rotary, "it has rotary positions only");
  check_rope_scaling(m, r);
  r.unless(!m.gpt_j_tied, "it has no gpt_j_tied");
  r.unless(m.use_bias_in_attn_linear || !m.add_qkv_bias, "it has no add_qkv_bias");
}

void check_gpt2(const ModelConfig& m, Reasons& r) {
  check_layernorm_model(m, r);
  r.unless(m.pos_emb == PositionEmbedding::learned, "it has learned positions only");
  r.unless(!m.gpt_j_residual, "it has no parallel residual");
  r.unless(m.use_bias_in_attn_linear, "its attention has biases");
}

void check_llama_like(const ModelConfig& m, Reasons& r) {
  r.unless(m.norm == NormKind::rmsnorm, "it has rmsnorm only");
  r.unless(m.gated, "its MLP is gated");
  r.unless(m.pos_emb == PositionEmbedding::rotary && m.rotary_dim() == m.head_dim(),
           "it rotates all channels of a head");
  check_rope_scaling(m, r);
  r.unless(!m.gpt_j_residual, "it has no parallel residual");
}

void check_llama(const ModelConfig& m, Reasons& r) {
  check_llama_like(m, r);
  r.unless(m.use_bias_in_attn_linear || !m.add_qkv_bias, "it has no add_qkv_bias");
}

void check_mistral(const ModelConfig& m, Reasons& r) {
  check_llama_like(m, r);
  r.unless(!m.use_bias_in_attn_linear && !m.add_qkv_bias && !m.use_bias_in_mlp, "it has no biases");
  r.unless(!has_attention(m, AttentionKind::global) && m.sliding_window_width > 0,
           "all its layers have the window");
}

void check_qwen2(const ModelConfig& m, Reasons& r) {
  check_llama_like(m, r);
  r.unless(!m.use_bias_in_attn_linear && m.add_qkv_bias,
           "it has biases in the query/key/value projections, and no others in attention");
  r.unless(!m.use_bias_in_mlp, "its MLP has no biases");
}

void check_qwen3(const ModelConfig& m, Reasons& r) {
  check_llama(m, r);
  r.unless(m.use_qk_layernorm, "it has use_qk_layernorm");
  r.unless(!m.use_bias_in_mlp, "its MLP has no biases");
}

void check_opt(const ModelConfig& m, Reasons& r) {
  check_mlp_and_heads(m, r);
  r.unless((m.norm == NormKind::layernorm && m.use_bias_in_norms) ||
               m.norm == NormKind::non_parametric_layernorm,
           "it has layernorm with biases, or without parameters");
  r.unless(m.layernorm_epsilon == 1e-5, "its layernorm_epsilon is 1e-5");
  r.unless(m.pos_emb == PositionEmbedding::learned && m.opt_pos_emb_offset == 2,
           "it has learned positions with opt_pos_emb_offset = 2");
  r.unless(!m.gpt_j_residual, "it has no parallel residual");
  r.unless(
      m.use_bias_in_attn_linear == m.use_bias_in_mlp && !(m.add_qkv_bias && !m.use_bias_in_mlp),
      "attention and MLP have biases, or neither");
}

void check_bloom(const ModelConfig& m, Reasons& r) {
  check_layernorm_model(m, r);
  r.unless(m.pos_emb == PositionEmbedding::alibi, "it has ALiBi only");
  r.unless(m.embedding_norm, "it has embedding_norm");
  r.unless(!m.gpt_j_residual, "it has no parallel residual");
  r.unless(m.use_bias_in_attn_linear, "its attention has biases");
  r.unless(m.activation == Activation::gelu_tanh, "its activation is gelu_tanh");
  r.unless(m.intermediate_size == 4 * m.hidden_size, "its MLP is four times as wide as the model");
}

std::string activation_word(const ModelConfig& m, const char* gelu_tanh) {
  switch (m.activation) {
    case Activation::gelu:
      return "gelu";
    case Activation::gelu_tanh:
      return gelu_tanh;
    case Activation::silu:
      return "silu";
    case Activation::relu:
      return "relu";
    case Activation::squared_relu:
      return "relu2";
    case Activation::mish:
      return "mish";
    case Activation::softsign:
    case Activation::sigmoid:
    case Activation::identity:
      break;  // hf_family_of() has refused them
  }
  fail("internal error: unknown activation");
}

ordered_json rope_parameters(const ModelConfig& m, bool partial) {
  ordered_json rope = {{"rope_type", "default"}, {"rope_theta", rope_base(m)}};
  if (partial) rope["partial_rotary_factor"] = m.rotary_pct;
  const bool other_base = m.rope_scaling == RopeScaling::ntk;
  if (m.rope_scaling == RopeScaling::none || other_base) return rope;
  rope["rope_type"] = "linear";
  rope["factor"] = m.rope_scaling_factor;
  if (m.rope_scaling == RopeScaling::linear) return rope;
  rope["original_max_position_embeddings"] = std::llround(rope_original_length(m));
  if (m.rope_scaling == RopeScaling::llama3) {
    rope["rope_type"] = "llama3";
    rope["low_freq_factor"] = m.rope_low_freq_factor;
    rope["high_freq_factor"] = m.rope_high_freq_factor;
  } else {
    rope["rope_type"] = "yarn";
    rope["beta_fast"] = m.rope_beta_fast;
    rope["beta_slow"] = m.rope_beta_slow;
    if (m.rope_attention_factor > 0) rope["attention_factor"] = m.rope_attention_factor;
  }
  return rope;
}

// transformers before version 5 read `theta_key` and rope_scaling, later ones rope_parameters.
void write_rope(const ModelConfig& m, const char* theta_key, bool partial, ordered_json& c) {
  const ordered_json rope = rope_parameters(m, partial);
  c[theta_key] = rope_base(m);
  c["rope_parameters"] = rope;
  if (rope.at("rope_type") != "default") c["rope_scaling"] = rope;
}

void write_gpt_neox(const ModelConfig& m, ordered_json& c) {
  c["hidden_size"] = m.hidden_size;
  c["num_hidden_layers"] = m.num_layers;
  c["num_attention_heads"] = m.num_attention_heads;
  c["intermediate_size"] = m.intermediate_size;
  c["hidden_act"] = activation_word(m, "gelu_fast");
  c["max_position_embeddings"] = m.max_position_embeddings;
  c["layer_norm_eps"] = m.layernorm_epsilon;
  c["rotary_pct"] = m.rotary_pct;
  write_rope(m, "rotary_emb_base", true, c);
  c["use_parallel_residual"] = m.gpt_j_residual;
  c["attention_bias"] = m.use_bias_in_attn_linear;
  c["hidden_dropout"] = m.hidden_dropout;
  c["attention_dropout"] = m.attention_dropout;
}

void write_gpt2(const ModelConfig& m, ordered_json& c) {
  c["n_embd"] = m.hidden_size;
  c["n_layer"] = m.num_layers;
  c["n_head"] = m.num_attention_heads;
  c["n_inner"] = m.intermediate_size;
  c["n_positions"] = m.max_position_embeddings;
  c["n_ctx"] = m.max_position_embeddings;
  c["activation_function"] = activation_word(m, "gelu_new");
  c["layer_norm_epsilon"] = m.layernorm_epsilon;
  c["embd_pdrop"] = m.hidden_dropout;
  c["resid_pdrop"] = m.hidden_dropout;
  c["attn_pdrop"] = m.attention_dropout;
}

void write_llama_like(const ModelConfig& m, ordered_json& c) {
  c["hidden_size"] = m.hidden_size;
  c["num_hidden_layers"] = m.num_layers;
  c["num_attention_heads"] = m.num_attention_heads;
  c["num_key_value_heads"] = m.num_kv_heads;
  c["head_dim"] = m.head_dim();
  c["intermediate_size"] = m.intermediate_size;
  c["hidden_act"] = activation_word(m, "gelu_pytorch_tanh");
  c["max_position_embeddings"] = m.max_position_embeddings;
  c["rms_norm_eps"] = m.rms_norm_epsilon;
  write_rope(m, "rope_theta", false, c);
  c["attention_dropout"] = m.attention_dropout;
}

void write_llama(const ModelConfig& m, ordered_json& c) {
  write_llama_like(m, c);
  c["attention_bias"] = m.use_bias_in_attn_linear;
  c["mlp_bias"] = m.use_bias_in_mlp;
}

void write_mistral(const ModelConfig& m, ordered_json& c) {
  write_llama_like(m, c);
  c["sliding_window"] = m.sliding_window_width + 1;  // theirs counts the query
}

void write_window(const ModelConfig& m, ordered_json& c) {
  const auto kinds = attention_kinds(m);
  const auto first = std::find(kinds.begin(), kinds.end(), AttentionKind::window);
  c["use_sliding_window"] = first != kinds.end();
  if (first == kinds.end()) return;
  c["sliding_window"] = m.sliding_window_width + 1;
  c["max_window_layers"] = first - kinds.begin();
  for (const AttentionKind kind : kinds) {
    c["layer_types"].push_back(kind == AttentionKind::window ? "sliding_attention"
                                                             : "full_attention");
  }
}

void write_qwen2(const ModelConfig& m, ordered_json& c) {
  write_llama_like(m, c);
  write_window(m, c);
}

void write_qwen3(const ModelConfig& m, ordered_json& c) {
  write_llama_like(m, c);
  c["attention_bias"] = m.use_bias_in_attn_linear;
  write_window(m, c);
}

void write_opt(const ModelConfig& m, ordered_json& c) {
  c["hidden_size"] = m.hidden_size;
  c["word_embed_proj_dim"] = m.hidden_size;
  c["num_hidden_layers"] = m.num_layers;
  c["num_attention_heads"] = m.num_attention_heads;
  c["ffn_dim"] = m.intermediate_size;
  c["activation_function"] = activation_word(m, "gelu_new");
  c["max_position_embeddings"] = m.max_position_embeddings;
  c["do_layer_norm_before"] = true;
  c["layer_norm_elementwise_affine"] = m.norm == NormKind::layernorm;
  c["enable_bias"] = m.use_bias_in_mlp;
  c["init_std"] = m.init_method_std;
  c["dropout"] = m.hidden_dropout;
  c["attention_dropout"] = m.attention_dropout;
}

void write_bloom(const ModelConfig& m, ordered_json& c) {
  c["hidden_size"] = m.hidden_size;
  c["n_layer"] = m.num_layers;
  c["n_head"] = m.num_attention_heads;
  c["seq_length"] = m.max_position_embeddings;
  c["layer_norm_epsilon"] = m.layernorm_epsilon;
  c["apply_residual_connection_post_layernorm"] = false;
  c["hidden_dropout"] = m.hidden_dropout;
  c["attention_dropout"] = m.attention_dropout;
}

struct Family {
  HfFamily id;
  const char* class_name;
  const char* model_type;
  void (*check)(const ModelConfig&, Reasons&);
  void (*write)(const ModelConfig&, ordered_json&);
};
constexpr Family kFamilies[] = {
    {HfFamily::gpt_neox, "GPTNeoXForCausalLM", "gpt_neox", check_gpt_neox, write_gpt_neox},
    {HfFamily::gpt2, "GPT2LMHeadModel", "gpt2", check_gpt2, write_gpt2},
    {HfFamily::llama, "LlamaForCausalLM", "llama", check_llama, write_llama},
    {HfFamily::mistral, "MistralForCausalLM", "mistral", check_mistral, write_mistral},
    {HfFamily::qwen2, "Qwen2ForCausalLM", "qwen2", check_qwen2, write_qwen2},
    {HfFamily::qwen3, "Qwen3ForCausalLM", "qwen3", check_qwen3, write_qwen3},
    {HfFamily::opt, "OPTForCausalLM", "opt", check_opt, write_opt},
    {HfFamily::bloom, "BloomForCausalLM", "bloom", check_bloom, write_bloom}};

}  // namespace

HfFamily hf_family_of(const ModelConfig& model) {
  std::string reasons;
  for (const Family& family : kFamilies) {
    Reasons missing;
    check_common(family.id, model, missing);
    family.check(model, missing);
    if (missing.text().empty()) return family.id;
    reasons += fmt::format("\n  {}: {}", family.class_name, missing.text());
  }
  fail("no Hugging Face class that this program knows computes what this model does:{}", reasons);
}

std::string hf_config_text(HfFamily family, const ModelConfig& model,
                           const std::string& torch_dtype, const HfTokenIds& ids) {
  for (const Family& f : kFamilies) {
    if (f.id != family) continue;
    ordered_json config = {{"architectures", {f.class_name}}, {"model_type", f.model_type}};
    config["vocab_size"] = model.vocab_size;
    f.write(model, config);
    config["initializer_range"] = model.init_method_std;
    config["tie_word_embeddings"] = !model.no_weight_tying;
    config["torch_dtype"] = torch_dtype;
    config["use_cache"] = true;
    const auto id = [&](const char* key, std::int64_t value) {
      // null keeps the class from putting a default of its own.
      config[key] = value < 0 ? ordered_json() : ordered_json(value);
    };
    id("bos_token_id", ids.bos);
    id("eos_token_id", ids.eos);
    id("pad_token_id", ids.pad);
    return config.dump(2) + "\n";
  }
  fail("internal error: unknown Hugging Face family");
}

}  // namespace neox
