#pragma once
// From [optimizer] to what happens to an element.

#include <cstdint>
#include <string>
#include <vector>

#include "core/config/config.h"
#include "kernels/optimizer.h"

namespace neox {

/// The states that the optimizer keeps for every element, by their names in checkpoints; for
/// ParameterStore::declare_optimizer_states. Throws Error for an unknown optimizer.type.
std::vector<std::string> optimizer_states(const OptimizerConfig& config);

/// The names of the states that it keeps for rows and columns: Optimizer::shared_states().
std::vector<std::string> shared_optimizer_states(const OptimizerConfig& config);

/// The rule of step `step` (from 1) with learning rate `lr`; `decay`: weight decay applies. LAMB's
/// is the first half of its step (LambUpdateRule); sm3 has none.
UpdateRule update_rule(const OptimizerConfig& config, double lr, std::int64_t step, bool decay);

}  // namespace neox
