#pragma once
// All parameters of a model, on whatever ranks they are.

#include <string>
#include <vector>

#include "core/config/config.h"
#include "core/model/parameter_store.h"

namespace neox {

struct ModelParameter {
  std::string name;
  Shape shape;  ///< of the whole parameter

  friend bool operator==(const ModelParameter&, const ModelParameter&) = default;
};

/// In the order of the whole model on one rank; so equal on all ranks without a message.
std::vector<ModelParameter> model_parameters(const ModelConfig& model);
/// Those of `store`.
std::vector<ModelParameter> model_parameters(const ParameterStore& store);

/// For every parameter of `store`, its place in `all`; internal error when it isn't there.
std::vector<std::int64_t> places_among(const std::vector<ModelParameter>& all,
                                       const ParameterStore& store);

}  // namespace neox
