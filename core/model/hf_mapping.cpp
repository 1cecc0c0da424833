#include "core/model/hf_mapping.h"

#include <algorithm>
#include <cstring>

#include <fmt/format.h>

#include "core/base/error.h"
#include "core/base/format.h"

namespace neox {
namespace {

/// How the HF tensors hold the elements.
enum class Form : std::uint8_t {
  same,         ///< as ours
  conv1d,       ///< weights transposed
  fused_conv1d  ///< the same, rows of all heads' q, then k, then v
};

/// "#" stands for the layer; ".weight" and ".bias" follow on both sides.
struct Rule {
  std::string_view ours;
  std::string_view theirs;
  Form form = Form::same;
};

constexpr Rule kGptNeoxRules[] = {
    {"embed_in", "gpt_neox.embed_in"},
    {"embed_out", "embed_out"},
    {"final_layer_norm", "gpt_neox.final_layer_norm"},
    {"layers.#.input_layernorm", "gpt_neox.layers.#.input_layernorm"},
    {"layers.#.post_attention_layernorm", "gpt_neox.layers.#.post_attention_layernorm"},
    {"layers.#.attention.query_key_value", "gpt_neox.layers.#.attention.query_key_value"},
    {"layers.#.attention.dense", "gpt_neox.layers.#.attention.dense"},
    {"layers.#.mlp.dense_h_to_4h", "gpt_neox.layers.#.mlp.dense_h_to_4h"},
    {"layers.#.mlp.dense_4h_to_h", "gpt_neox.layers.#.mlp.dense_4h_to_h"}};

constexpr Rule kGpt2Rules[] = {
    {"embed_in", "transformer.wte"},
    {"embed_positions", "transformer.wpe"},
    {"embed_out", "lm_head"},
    {"final_layer_norm", "transformer.ln_f"},
    {"layers.#.input_layernorm", "transformer.h.#.ln_1"},
    {"layers.#.post_attention_layernorm", "transformer.h.#.ln_2"},
    {"layers.#.attention.query_key_value", "transformer.h.#.attn.c_attn", Form::fused_conv1d},
    {"layers.#.attention.dense", "transformer.h.#.attn.c_proj", Form::conv1d},
    {"layers.#.mlp.dense_h_to_4h", "transformer.h.#.mlp.c_fc", Form::conv1d},
    {"layers.#.mlp.dense_4h_to_h", "transformer.h.#.mlp.c_proj", Form::conv1d}};

// Both query_key_value (as many K/V heads as heads: one tensor here, three there) and the separate
// tensors of grouped-query models.
constexpr Rule kLlamaRules[] = {
    {"embed_in", "model.embed_tokens"},
    {"embed_out", "lm_head"},
    {"final_layer_norm", "model.norm"},
    {"layers.#.input_layernorm", "model.layers.#.input_layernorm"},
    {"layers.#.post_attention_layernorm", "model.layers.#.post_attention_layernorm"},
    {"layers.#.attention.query_key_value",
     "model.layers.#.self_attn.q_proj model.layers.#.self_attn.k_proj "
     "model.layers.#.self_attn.v_proj"},
    {"layers.#.attention.query", "model.layers.#.self_attn.q_proj"},
    {"layers.#.attention.key", "model.layers.#.self_attn.k_proj"},
    {"layers.#.attention.value", "model.layers.#.self_attn.v_proj"},
    {"layers.#.attention.query_layernorm", "model.layers.#.self_attn.q_norm"},
    {"layers.#.attention.key_layernorm", "model.layers.#.self_attn.k_norm"},
    {"layers.#.attention.dense", "model.layers.#.self_attn.o_proj"},
    {"layers.#.mlp.gate_proj", "model.layers.#.mlp.gate_proj"},
    {"layers.#.mlp.up_proj", "model.layers.#.mlp.up_proj"},
    {"layers.#.mlp.down_proj", "model.layers.#.mlp.down_proj"}};

constexpr Rule kOptRules[] = {
    {"embed_in", "model.decoder.embed_tokens"},
    {"embed_positions", "model.decoder.embed_positions"},
    {"embed_out", "lm_head"},
    {"final_layer_norm", "model.decoder.final_layer_norm"},
    {"layers.#.input_layernorm", "model.decoder.layers.#.self_attn_layer_norm"},
    {"layers.#.post_attention_layernorm", "model.decoder.layers.#.final_layer_norm"},
    {"layers.#.attention.query_key_value",
     "model.decoder.layers.#.self_attn.q_proj model.decoder.layers.#.self_attn.k_proj "
     "model.decoder.layers.#.self_attn.v_proj"},
    {"layers.#.attention.dense", "model.decoder.layers.#.self_attn.out_proj"},
    {"layers.#.mlp.dense_h_to_4h", "model.decoder.layers.#.fc1"},
    {"layers.#.mlp.dense_4h_to_h", "model.decoder.layers.#.fc2"}};

constexpr Rule kBloomRules[] = {
    {"embed_in", "transformer.word_embeddings"},
    {"embed_layer_norm", "transformer.word_embeddings_layernorm"},
    {"embed_out", "lm_head"},
    {"final_layer_norm", "transformer.ln_f"},
    {"layers.#.input_layernorm", "transformer.h.#.input_layernorm"},
    {"layers.#.post_attention_layernorm", "transformer.h.#.post_attention_layernorm"},
    {"layers.#.attention.query_key_value", "transformer.h.#.self_attention.query_key_value"},
    {"layers.#.attention.dense", "transformer.h.#.self_attention.dense"},
    {"layers.#.mlp.dense_h_to_4h", "transformer.h.#.mlp.dense_h_to_4h"},
    {"layers.#.mlp.dense_4h_to_h", "transformer.h.#.mlp.dense_4h_to_h"}};

struct FamilyTable {
  std::string_view class_name;
  std::span<const Rule> rules;
  std::string_view base;     // prefix that files of the bare model leave out
  std::string_view output;   // tensor of the output layer
  std::string_view buffers;  // ends of names that are no weights, space separated
};

FamilyTable table_of(HfFamily family) {
  switch (family) {
    case HfFamily::gpt_neox:
      return {"GPTNeoXForCausalLM", kGptNeoxRules, "gpt_neox.", "embed_out.weight",
              ".attention.bias .attention.masked_bias .rotary_emb.inv_freq"};
    case HfFamily::gpt2:
      return {"GPT2LMHeadModel", kGpt2Rules, "transformer.", "lm_head.weight",
              ".attn.bias .attn.masked_bias"};
    case HfFamily::llama:
      return {"LlamaForCausalLM", kLlamaRules, "model.", "lm_head.weight", ".rotary_emb.inv_freq"};
    case HfFamily::mistral:
      return {"MistralForCausalLM", kLlamaRules, "model.", "lm_head.weight",
              ".rotary_emb.inv_freq"};
    case HfFamily::qwen2:
      return {"Qwen2ForCausalLM", kLlamaRules, "model.", "lm_head.weight", ".rotary_emb.inv_freq"};
    case HfFamily::qwen3:
      return {"Qwen3ForCausalLM", kLlamaRules, "model.", "lm_head.weight", ".rotary_emb.inv_freq"};
    case HfFamily::opt:
      return {"OPTForCausalLM", kOptRules, "model.", "lm_head.weight", ""};
    case HfFamily::bloom:
      return {"BloomForCausalLM", kBloomRules, "transformer.", "lm_head.weight", ""};
  }
  fail("internal error: unknown Hugging Face family");
}

/// "layers.3.attention.dense.weight" -> "layers.#.attention.dense", "3", "weight".
struct NameParts {
  std::string module, layer, kind;
};

NameParts split_name(const std::string& name) {
  NameParts parts;
  const std::size_t last = name.rfind('.');
  require(last != std::string::npos, "internal error: parameter name {}", name);
  parts.module = name.substr(0, last);
  parts.kind = name.substr(last + 1);
  constexpr std::string_view kLayers = "layers.";
  if (parts.module.starts_with(kLayers)) {
    const std::size_t dot = parts.module.find('.', kLayers.size());
    parts.layer = parts.module.substr(kLayers.size(), dot - kLayers.size());
    parts.module.replace(kLayers.size(), parts.layer.size(), "#");
  }
  return parts;
}

// Row of the HF tensors (one behind the other) that holds our row `row`.
std::int64_t their_row(const HfLink& link, std::int64_t row) {
  if (link.heads == 0) return row;
  const std::int64_t within = row % link.head_dim, part = row / link.head_dim % 3;
  const std::int64_t head = row / (3 * link.head_dim);
  return (part * link.heads + head) * link.head_dim + within;
}

// copy(index of an element of ours, index of theirs, elements) for every run that is contiguous in
// both.
template <class F>
void for_each_run(const HfLink& link, F&& copy) {
  const std::int64_t rows = link.shape[0], columns = link.shape.numel() / std::max(rows, 1L);
  if (!link.transposed) {
    for (std::int64_t r = 0; r < rows; ++r)
      copy(r * columns, their_row(link, r) * columns, columns);
    return;
  }
  constexpr std::int64_t kTile = 32;  // both sides of a tile stay in the cache
  for (std::int64_t row0 = 0; row0 < rows; row0 += kTile) {
    for (std::int64_t c0 = 0; c0 < columns; c0 += kTile) {
      for (std::int64_t r = row0; r < std::min(row0 + kTile, rows); ++r) {
        const std::int64_t theirs = their_row(link, r);
        for (std::int64_t c = c0; c < std::min(c0 + kTile, columns); ++c) {
          copy(r * columns + c, c * rows + theirs, 1);
        }
      }
    }
  }
}

std::size_t at(std::int64_t index, std::size_t element_size) {
  return static_cast<std::size_t>(index) * element_size;
}

}  // namespace

HfLink hf_link(HfFamily family, const ModelConfig& model, const std::string& parameter,
               const Shape& shape) {
  const FamilyTable table = table_of(family);
  const NameParts parts = split_name(parameter);
  const auto rule = std::find_if(table.rules.begin(), table.rules.end(),
                                 [&](const Rule& r) { return r.ours == parts.module; });
  require(rule != table.rules.end(), "{} has no counterpart of the parameter {}", table.class_name,
          parameter);
  const std::vector<std::string> names = split_words(rule->theirs);
  HfLink link{parameter, shape, {}};
  link.transposed = rule->form != Form::same && shape.rank() == 2;
  if (names.size() > 1 || rule->form == Form::fused_conv1d) {
    link.heads = model.num_attention_heads;
    link.head_dim = model.head_dim();
  }
  Shape part = shape;
  part.set(0, shape[0] / static_cast<std::int64_t>(names.size()));
  if (link.transposed) part = {shape[1], shape[0]};
  for (std::string name : names) {
    if (const std::size_t mark = name.find('#'); mark != std::string::npos) {
      name.replace(mark, 1, parts.layer);
    }
    link.tensors.push_back({name + "." + parts.kind, part});
  }
  return link;
}

void hf_to_ours(const HfLink& link, std::size_t element_size, const std::byte* theirs,
                std::byte* ours) {
  for_each_run(link, [&](std::int64_t our, std::int64_t their, std::int64_t count) {
    std::memcpy(ours + at(our, element_size), theirs + at(their, element_size),
                at(count, element_size));
  });
}

void ours_to_hf(const HfLink& link, std::size_t element_size, const std::byte* ours,
                std::byte* theirs) {
  for_each_run(link, [&](std::int64_t our, std::int64_t their, std::int64_t count) {
    std::memcpy(theirs + at(their, element_size), ours + at(our, element_size),
                at(count, element_size));
  });
}

std::string hf_bare_name(HfFamily family, const std::string& tensor) {
  const std::string_view base = table_of(family).base;
  return tensor.starts_with(base) ? tensor.substr(base.size()) : tensor;
}

bool is_hf_buffer(HfFamily family, std::string_view tensor) {
  const std::vector<std::string> ends = split_words(table_of(family).buffers);
  return std::any_of(ends.begin(), ends.end(),
                     [&](const std::string& end) { return tensor.ends_with(end); });
}

std::string hf_output_tensor(HfFamily family) {
  return std::string(table_of(family).output);
}

std::vector<float> assemble_from_hf(HfFamily family, const ModelConfig& model,
                                    const std::string& name, const Shape& shape,
                                    const HfTensorSource& source) {
  const HfLink link = hf_link(family, model, name, shape);
  std::vector<float> theirs;
  theirs.reserve(static_cast<std::size_t>(shape.numel()));
  for (const HfTensor& tensor : link.tensors) {
    const std::vector<float> values = source(tensor.name, tensor.shape);
    theirs.insert(theirs.end(), values.begin(), values.end());
  }
  require(static_cast<std::int64_t>(theirs.size()) == shape.numel(),
          "the tensors of {} have {} elements; expected {} {}", name, theirs.size(), shape.numel(),
          shape.str());
  std::vector<float> ours(theirs.size());
  hf_to_ours(link, sizeof(float), reinterpret_cast<const std::byte*>(theirs.data()),
             reinterpret_cast<std::byte*>(ours.data()));
  return ours;
}

}  // namespace neox
