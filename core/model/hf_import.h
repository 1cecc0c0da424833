#pragma once

#include <span>
#include <string>
#include <vector>

#include "core/model/hf_mapping.h"
#include "core/model/transformer.h"
#include "io/safetensors.h"

namespace neox {

/// The model of a Hugging Face folder (config.json). Throws Error naming the file.
HfModel read_hf_model(const std::string& directory);

/// The links of all parameters of a model that need not be in memory. Rows of the word tables that
/// only pad the vocabulary have no counterpart: the links' shapes end at vocab_size.
std::vector<HfLink> hf_links(HfFamily family, const ModelConfig& model);

/// The weights of a Hugging Face folder: model.safetensors, or shards with an index. Files of the
/// bare model (GPT2Model) are read as well.
class HfWeights {
 public:
  /// Throws Error naming folder or file.
  HfWeights(const std::string& directory, HfFamily family);

  const SafetensorsReader& reader() const { return reader_; }
  /// As the tensor is called in the files.
  std::string name_of(const std::string& tensor) const;
  /// Throws Error unless the files hold exactly the links' tensors (and buffers), in their shapes
  /// and of a float type; of a tied model also the output layer, equal to the embedding.
  void check(std::span<const HfLink> links, bool tied) const;
  /// The parameter's values as `dtype`, ours row-major, in `out` (link.shape elements).
  void read(const HfLink& link, DType dtype, std::vector<std::byte>& out) const;

 private:
  void check_tied_output() const;

  HfFamily family_;
  SafetensorsReader reader_;
};

/// Fills the parameters of `model`, made from read_hf_model(), with the folder's weights, and
/// refreshes the compute weights. `round_to`: the values are rounded to this type first. Throws
/// Error naming the file and the tensor.
void load_hf_weights(const std::string& directory, HfFamily family, Transformer& model,
                     const Backend& ops, Stream& stream, DType round_to = DType::f32);

}  // namespace neox
