#pragma once
// How our parameters are made of the tensors of a Hugging Face checkpoint.

#include <functional>
#include <string>
#include <vector>

#include "core/config/config.h"
#include "core/tensor/shape.h"

namespace neox {

enum class HfFamily : std::uint8_t {
  gpt_neox,  ///< GPTNeoXForCausalLM: names and layouts are ours
  gpt2,      ///< GPT2LMHeadModel: Conv1D weights [in, out]; c_attn columns [all q | all k | all v]
  llama      ///< LlamaForCausalLM, MistralForCausalLM: separate q, k, v
};

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
};
HfModel model_from_hf_config(const std::string& json, const std::string& where);

}  // namespace neox
