#pragma once
// Which gradients are not finite, after a step that was skipped for it.

#include <string>

#include "comm/communicator.h"
#include "core/model/parameter_store.h"

namespace neox {

/// Looks through the gradients of the step, parameter by parameter, on the rank that owns each
/// element. "the gradient of layers.0.attention.dense.weight (rank 3) is not finite; of all such
/// parameters it is the first in the model's order, and layers.5.mlp.dense_4h_to_h.weight (rank 1)
/// the last, whose gradient backward computes first"; or that all are finite. Equal on all ranks.
/// Slow: one reduction per parameter. Collective over `world`.
std::string describe_non_finite_gradients(const ParameterStore& store, const Backend& ops,
                                          Stream& stream, Communicator& world);

}  // namespace neox
