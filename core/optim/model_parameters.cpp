#include "core/optim/model_parameters.h"

#include <map>

#include "core/model/transformer.h"

namespace neox {

std::vector<ModelParameter> model_parameters(const ModelConfig& model) {
  return model_parameters(Transformer(model).parameters());
}

std::vector<ModelParameter> model_parameters(const ParameterStore& store) {
  std::vector<ModelParameter> all;
  for (ParameterId id = 0; id < store.size(); ++id) {
    all.push_back({store.spec(id).name, store.spec(id).global});
  }
  return all;
}

std::vector<std::int64_t> places_among(const std::vector<ModelParameter>& all,
                                       const ParameterStore& store) {
  std::map<std::string, std::int64_t> place_of;
  for (const ModelParameter& parameter : all) {
    place_of.emplace(parameter.name, static_cast<std::int64_t>(place_of.size()));
  }
  require(place_of.size() == all.size(), "internal error: two parameters have one name");
  std::vector<std::int64_t> places;
  for (ParameterId id = 0; id < store.size(); ++id) {
    const auto found = place_of.find(store.spec(id).name);
    if (found == place_of.end()) {
      fail("internal error: the model has no parameter {}", store.spec(id).name);
    }
    places.push_back(found->second);
  }
  return places;
}

}  // namespace neox
