#include "core/model/hf_mapping.h"

#include <algorithm>
#include <map>

#include <fmt/format.h>

#include "core/base/error.h"

namespace neox {
namespace {

/// "layers.3.attention.dense.weight" -> layer 3, "attention.dense", "weight"; layer -1 outside
/// layers.
struct NameParts {
  int layer = -1;
  std::string module;
  std::string kind;
};

NameParts split_name(const std::string& name) {
  NameParts parts;
  std::string rest = name;
  if (rest.starts_with("layers.")) {
    const std::size_t dot = rest.find('.', 7);
    parts.layer = std::stoi(rest.substr(7, dot - 7));
    rest = rest.substr(dot + 1);
  }
  const std::size_t dot = rest.rfind('.');
  parts.module = rest.substr(0, dot);
  parts.kind = rest.substr(dot + 1);
  return parts;
}

std::vector<float> transposed(const std::vector<float>& in, std::int64_t rows, std::int64_t cols) {
  std::vector<float> out(in.size());
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t c = 0; c < cols; ++c) {
      out[static_cast<std::size_t>(c * rows + r)] = in[static_cast<std::size_t>(r * cols + c)];
    }
  }
  return out;
}

// Rows [q of all heads | k of all heads | v of all heads] -> per head [q, k, v]. `columns` is 1 for
// a bias.
std::vector<float> interleave_heads(const std::vector<float>& in, const ModelConfig& model,
                                    std::int64_t columns) {
  const std::int64_t heads = model.num_attention_heads, d = model.head_dim();
  std::vector<float> out(in.size());
  for (std::int64_t part = 0; part < 3; ++part) {
    for (std::int64_t head = 0; head < heads; ++head) {
      const auto from = in.begin() + (part * heads + head) * d * columns;
      std::copy_n(from, d * columns, out.begin() + (head * 3 + part) * d * columns);
    }
  }
  return out;
}

std::int64_t columns_of(const Shape& shape) {
  return shape.rank() == 2 ? shape[1] : 1;
}

std::vector<float> gpt_neox(const std::string& name, const Shape& shape,
                            const HfTensorSource& source) {
  const bool outside = name.starts_with("embed_out");
  return source(outside ? name : "gpt_neox." + name, shape);
}

std::vector<float> gpt2(const ModelConfig& model, const std::string& name, const Shape& shape,
                        const HfTensorSource& source) {
  static const std::map<std::string, std::string> modules = {
      {"embed_in", "wte"},
      {"embed_positions", "wpe"},
      {"final_layer_norm", "ln_f"},
      {"input_layernorm", "ln_1"},
      {"post_attention_layernorm", "ln_2"},
      {"attention.query_key_value", "attn.c_attn"},
      {"attention.dense", "attn.c_proj"},
      {"mlp.dense_h_to_4h", "mlp.c_fc"},
      {"mlp.dense_4h_to_h", "mlp.c_proj"}};
  const NameParts parts = split_name(name);
  if (name == "embed_out.weight") return source("lm_head.weight", shape);
  const auto found = modules.find(parts.module);
  require(found != modules.end(), "GPT-2 has no counterpart of the parameter {}", name);
  const std::string prefix =
      parts.layer < 0 ? "transformer." : fmt::format("transformer.h.{}.", parts.layer);
  const std::string hf_name = prefix + found->second + "." + parts.kind;
  const bool conv1d = parts.layer >= 0 && shape.rank() == 2;
  std::vector<float> values =
      conv1d ? transposed(source(hf_name, {shape[1], shape[0]}), shape[1], shape[0])
             : source(hf_name, shape);
  if (parts.module == "attention.query_key_value") {
    values = interleave_heads(values, model, columns_of(shape));
  }
  return values;
}

std::vector<float> llama(const ModelConfig& model, const std::string& name, const Shape& shape,
                         const HfTensorSource& source) {
  static const std::map<std::string, std::string> modules = {
      {"embed_in", "model.embed_tokens"},
      {"embed_out", "lm_head"},
      {"final_layer_norm", "model.norm"},
      {"input_layernorm", "input_layernorm"},
      {"post_attention_layernorm", "post_attention_layernorm"},
      {"attention.query", "self_attn.q_proj"},
      {"attention.key", "self_attn.k_proj"},
      {"attention.value", "self_attn.v_proj"},
      {"attention.dense", "self_attn.o_proj"},
      {"mlp.gate_proj", "mlp.gate_proj"},
      {"mlp.up_proj", "mlp.up_proj"},
      {"mlp.down_proj", "mlp.down_proj"}};
  const NameParts parts = split_name(name);
  const std::string prefix = parts.layer < 0 ? "" : fmt::format("model.layers.{}.", parts.layer);
  if (parts.module == "attention.query_key_value") {
    Shape part = shape;
    part.set(0, shape[0] / 3);
    std::vector<float> all;
    for (const char* projection : {"q_proj", "k_proj", "v_proj"}) {
      const auto values =
          source(fmt::format("{}self_attn.{}.{}", prefix, projection, parts.kind), part);
      all.insert(all.end(), values.begin(), values.end());
    }
    return interleave_heads(all, model, columns_of(shape));
  }
  const auto found = modules.find(parts.module);
  require(found != modules.end(), "Llama has no counterpart of the parameter {}", name);
  return source(prefix + found->second + "." + parts.kind, shape);
}

}  // namespace

std::vector<float> assemble_from_hf(HfFamily family, const ModelConfig& model,
                                    const std::string& name, const Shape& shape,
                                    const HfTensorSource& source) {
  switch (family) {
    case HfFamily::gpt_neox:
      return gpt_neox(name, shape, source);
    case HfFamily::gpt2:
      return gpt2(model, name, shape, source);
    case HfFamily::llama:
      return llama(model, name, shape, source);
  }
  fail("internal error: unknown Hugging Face family");
}

}  // namespace neox
