// config.json for a model, and which class can represent it.

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "core/base/error.h"
#include "core/model/hf_mapping.h"

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

void check_layernorm_model(const ModelConfig& m, Reasons& r) {
  r.unless(m.norm == NormKind::layernorm, "it has layernorm only");
  r.unless(m.use_bias_in_norms, "its layernorms have biases");
  r.unless(!m.gated, "its MLP is not gated");
  r.unless(m.use_bias_in_mlp, "its MLP has biases");
  r.unless(m.num_kv_heads == m.num_attention_heads, "it has no grouped-query attention");
}

void check_gpt_neox(const ModelConfig& m, Reasons& r) {
  check_layernorm_model(m, r);
  r.unless(m.pos_emb == PositionEmbedding::rotary, "it has rotary positions only");
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
  r.unless(!m.gpt_j_residual, "it has no parallel residual");
}

void check_llama(const ModelConfig& m, Reasons& r) {
  check_llama_like(m, r);
  r.unless(m.use_bias_in_attn_linear || !m.add_qkv_bias, "it has no add_qkv_bias");
}

void check_qwen2(const ModelConfig& m, Reasons& r) {
  check_llama_like(m, r);
  r.unless(!m.use_bias_in_attn_linear && m.add_qkv_bias,
           "it has biases in the query/key/value projections, and no others in attention");
  r.unless(!m.use_bias_in_mlp, "its MLP has no biases");
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
    case Activation::sigmoid:
      return "sigmoid";
    case Activation::identity:
      return "linear";
  }
  fail("internal error: unknown activation");
}

// transformers before version 5 read rope_theta (and rotary_emb_base, rotary_pct), later ones this.
ordered_json rope_parameters(const ModelConfig& m, bool partial) {
  ordered_json rope = {{"rope_type", "default"}, {"rope_theta", m.rotary_emb_base}};
  if (partial) rope["partial_rotary_factor"] = m.rotary_pct;
  return rope;
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
  c["rotary_emb_base"] = m.rotary_emb_base;
  c["rope_parameters"] = rope_parameters(m, true);
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
  c["rope_theta"] = m.rotary_emb_base;
  c["rope_parameters"] = rope_parameters(m, false);
  c["attention_dropout"] = m.attention_dropout;
}

void write_llama(const ModelConfig& m, ordered_json& c) {
  write_llama_like(m, c);
  c["attention_bias"] = m.use_bias_in_attn_linear;
  c["mlp_bias"] = m.use_bias_in_mlp;
}

void write_qwen2(const ModelConfig& m, ordered_json& c) {
  write_llama_like(m, c);
  c["use_sliding_window"] = false;
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
    {HfFamily::qwen2, "Qwen2ForCausalLM", "qwen2", check_qwen2, write_qwen2}};

}  // namespace

HfFamily hf_family_of(const ModelConfig& model) {
  std::string reasons;
  for (const Family& family : kFamilies) {
    Reasons missing;
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
