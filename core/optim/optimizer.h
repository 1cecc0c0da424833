#pragma once
// The optimizer step over a ParameterStore: gradient norm, clipping, AdamW.

#include "core/config/config.h"
#include "core/model/parameter_store.h"

namespace neox {

class Optimizer {
 public:
  Optimizer(ParameterStore& store, const OptimizerConfig& config, const Backend& ops,
            Stream& stream);

  /// One step with learning rate `lr`. Gradients must be final (summed over data-parallel ranks).
  /// Clipping: g *= min(1, gradient_clipping / (norm + 1e-6)), norm = L2 over all parameters.
  /// Returns the norm before clipping. When it is not finite, nothing is changed.
  double step(double lr);

  /// Steps taken: AdamW's t of the last step.
  std::int64_t steps_taken() const { return steps_; }
  void set_steps_taken(std::int64_t steps) { steps_ = steps; }

 private:
  ParameterStore& store_;
  OptimizerConfig config_;
  const Backend& ops_;
  Stream& stream_;
  OwnedTensor square_sum_, scale_, host_square_sum_;
  std::int64_t steps_ = 0;
};

}  // namespace neox
