#pragma once

#include <string>

#include "core/model/hf_mapping.h"
#include "core/model/transformer.h"

namespace neox {

/// The model of a Hugging Face folder (config.json). Throws Error naming the file.
HfModel read_hf_model(const std::string& directory);

/// Fills the parameters of `model`, made from read_hf_model(), with the folder's weights
/// (model.safetensors, or shards with an index), and refreshes the compute weights. Throws Error
/// naming the file and the tensor.
void load_hf_weights(const std::string& directory, HfFamily family, Transformer& model,
                     const Backend& ops, Stream& stream);

}  // namespace neox
