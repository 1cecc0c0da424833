#pragma once
// How our parameters and the tensors of a Hugging Face checkpoint are made of each other. Each
// family is described once (hf_mapping.cpp), and both directions read that description.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/config/config.h"
#include "core/tensor/shape.h"

namespace neox {

enum class HfFamily : std::uint8_t {
  gpt_neox,  ///< GPTNeoXForCausalLM: names and layouts are ours
  gpt2,      ///< GPT2LMHeadModel: Conv1D weights [in, out]; c_attn columns [all q | all k | all v]
  llama,     ///< LlamaForCausalLM: separate q, k, v
  mistral,   ///< MistralForCausalLM: the same, with a sliding window
  qwen2,     ///< Qwen2ForCausalLM: LLaMA's names; biases in q, k, v alone
  qwen3,     ///< Qwen3ForCausalLM: LLaMA's names; norms of each head's queries and keys
  opt,       ///< OPTForCausalLM: separate q, k, v; positions from row 2 of their table on
  bloom      ///< BloomForCausalLM: layouts are ours
};

struct HfTensor {
  std::string name;
  Shape shape;
};

/// One of our parameters and the HF tensors that hold the same elements.
struct HfLink {
  std::string parameter;  ///< ParameterStore's name
  Shape shape;            ///< ours: [out, in] or [n]
  std::vector<HfTensor> tensors;
  bool transposed = false;  ///< HF: [in, out]
  /// Of the fused projection: HF's rows are [part][head][head_dim], ours [head][part][head_dim]
  /// with parts q, k, v. 0: the rows are in the same order.
  std::int64_t heads = 0;
  std::int64_t head_dim = 0;
};

/// Throws Error when the family has no counterpart of the parameter.
HfLink hf_link(HfFamily family, const ModelConfig& model, const std::string& parameter,
               const Shape& shape);

/// Elements of `element_size` bytes. `theirs`: the link's tensors one behind the other.
void hf_to_ours(const HfLink& link, std::size_t element_size, const std::byte* theirs,
                std::byte* ours);
void ours_to_hf(const HfLink& link, std::size_t element_size, const std::byte* ours,
                std::byte* theirs);

/// The name that files of the bare model (GPT2Model rather than GPT2LMHeadModel) have instead of
/// `tensor`; equal to it where there is no other.
std::string hf_bare_name(HfFamily family, const std::string& tensor);
/// Tensors that files may hold and that are no weights: causal masks, rotary tables.
bool is_hf_buffer(HfFamily family, std::string_view tensor);
/// The output layer's tensor, which files of tied models may hold as a copy of the embedding.
std::string hf_output_tensor(HfFamily family);

/// The values of one HF tensor in f32, row-major. Throws Error when it is missing or has another
/// shape.
using HfTensorSource =
    std::function<std::vector<float>(const std::string& name, const Shape& shape)>;

/// Values of the whole parameter `name` (ParameterStore's name) of global shape `shape`, assembled
/// from the checkpoint's tensors. Throws Error when the family has no such parameter.
std::vector<float> assemble_from_hf(HfFamily family, const ModelConfig& model,
                                    const std::string& name, const Shape& shape,
                                    const HfTensorSource& source);

/// The model described by a Hugging Face config.json text; `where` names the file in errors. Throws
/// Error on an architecture or a setting that this program cannot represent.
struct HfModel {
  HfFamily family = HfFamily::gpt_neox;
  ModelConfig model;
  std::vector<std::string> notes{};  ///< for the user: what is represented otherwise than there
};
HfModel model_from_hf_config(const std::string& json, const std::string& where);

/// The family whose HF class computes what `model` (resolved) does. Throws Error saying for each
/// family why it does not.
HfFamily hf_family_of(const ModelConfig& model);
/// Ids of special tokens; -1: none.
struct HfTokenIds {
  std::int64_t bos = -1, eos = -1, pad = -1;
};
/// config.json of `model` as that family; `torch_dtype`: "float32", "bfloat16" or "float16".
std::string hf_config_text(HfFamily family, const ModelConfig& model,
                           const std::string& torch_dtype, const HfTokenIds& ids);

}  // namespace neox
