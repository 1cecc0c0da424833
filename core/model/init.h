#pragma once
// Initial weights (the rules of GPT-NeoX): every element is a function of the seed, the
// tensor's name and the element's index in the *global* tensor, so the initial model does not
// depend on the parallel layout.

#include <cstdint>

#include "core/config/config.h"
#include "core/model/parameter_store.h"

namespace neox {

/// Standard deviation of a rule; for the xavier rules of a [out, in] tensor. L layers, h hidden
/// size:
///   normal s | scaled_normal s/sqrt(2L) | single_residual_scaled_normal s/sqrt(L) |
///   small_init sqrt(2/(5h)) | wang_init 2/(L sqrt(h)) | xavier_* sqrt(2/(in+out)) of the global
///   shape.
double init_std(InitMethod method, const ModelConfig& model, const Shape& global);

/// Fills the main weights that this rank updates and refreshes their compute weights.
void initialise_parameters(ParameterStore& store, const ModelConfig& model, std::uint64_t seed,
                           const Backend& ops, Stream& stream);

}  // namespace neox
