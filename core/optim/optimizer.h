#pragma once
// The optimizer step over a ParameterStore: gradient norm, clipping, AdamW.

#include "comm/communicator.h"
#include "core/config/config.h"
#include "core/model/parameter_store.h"

namespace neox {

class Optimizer {
 public:
  /// `world`: all ranks that hold parts of the model (data x tensor x pipe); null: this one alone.
  Optimizer(ParameterStore& store, const OptimizerConfig& config, const Backend& ops,
            Stream& stream, Communicator* world = nullptr);

  /// One step with learning rate `lr`. Gradients must be final (DataParallel::finish_gradients).
  /// Clipping: g *= min(1, gradient_clipping / (norm + 1e-6)), norm = L2 over all parameters of the
  /// model: the squares of every rank's owned, counted elements, piece by piece in f64, then summed
  /// over the world in rank order; so it does not depend on the ZeRO stage. Returns the norm before
  /// clipping. When it is not finite, nothing is changed, on any rank. `skip`: on any rank, makes
  /// the norm NaN on all (a loss that is not finite, say). Collective.
  double step(double lr, bool skip = false);

  /// Steps taken: AdamW's t of the last step.
  std::int64_t steps_taken() const { return steps_; }
  void set_steps_taken(std::int64_t steps) { steps_ = steps; }

  /// Bytes besides the store's: sums and factors of a step.
  std::size_t bytes() const;

 private:
  ParameterStore& store_;
  OptimizerConfig config_;
  const Backend& ops_;
  Stream& stream_;
  Communicator* world_;
  OwnedTensor square_sum_, scale_, host_square_sum_;
  std::int64_t steps_ = 0;
};

}  // namespace neox
