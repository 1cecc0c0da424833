#pragma once
// The optimizer step over a ParameterStore: gradient norm, clipping, update.

#include <limits>
#include <optional>

#include "comm/communicator.h"
#include "core/config/config.h"
#include "core/model/parameter_store.h"
#include "core/optim/model_parameters.h"
#include "core/optim/sm3.h"
#include "core/optim/trust_ratio.h"

namespace neox {

/// What makes a step change nothing, on any rank.
struct UpdateGuard {
  double loss = 0.0;  ///< this rank's share of the step's loss; the shares' sum is the loss
  double max_loss = std::numeric_limits<double>::infinity();
  double max_grad_norm = std::numeric_limits<double>::infinity();
  /// The gradients are those of the loss times this; they are divided by it before all else.
  double loss_scale = 1.0;
};

/// A step as all ranks see it.
struct UpdateResult {
  double loss = 0.0;       ///< the sum of UpdateGuard::loss over the ranks
  double grad_norm = 0.0;  ///< before clipping, without the loss scale
  bool applied = false;    ///< false: nothing was changed
};

class Optimizer {
 public:
  /// The store must have the states of optimizer_states(config) (update_rule.h).
  /// `world`: all ranks that hold parts of the model (data x tensor x pipe); null: this one alone.
  /// `parameters`: those of the whole model, alike on all ranks; empty: `store` has them all.
  Optimizer(ParameterStore& store, const OptimizerConfig& config, const Backend& ops,
            Stream& stream, Communicator* world = nullptr,
            const std::vector<ModelParameter>& parameters = {});

  /// One step with learning rate `lr`. Gradients must be final (DataParallel::finish_gradients).
  /// Clipping: g *= min(1, gradient_clipping / (norm + 1e-6)), norm = L2 over all parameters of the
  /// model: the squares of every rank's owned, counted elements, piece by piece in f64, then summed
  /// over the world in rank order; so it does not depend on the ZeRO stage. Nothing is changed, on
  /// any rank, when loss or norm is not finite or above its maximum, which must be equal on all
  /// ranks: the loss travels with the norm, so that every rank decides on the same two numbers.
  /// LAMB leaves its update where the gradients were. Collective.
  UpdateResult step(double lr, const UpdateGuard& guard = {});

  const OptimizerConfig& config() const { return config_; }

  /// Steps taken: Adam's t of the last step.
  std::int64_t steps_taken() const { return steps_; }
  void set_steps_taken(std::int64_t steps) { steps_ = steps; }

  /// Not in the store: what every rank holds whole (sm3). Checkpoints have them from rank 0.
  std::vector<SharedState> shared_states() const;
  bool saves_shared_states() const { return world_ == nullptr || world_->rank() == 0; }
  void clear_shared_states();
  std::size_t shared_state_bytes() const { return sm3_ ? sm3_->bytes() : 0; }

  /// Bytes besides the store's and the shared states': sums and factors of a step.
  std::size_t bytes() const;

 private:
  void update(double lr);
  void update_elements(double lr);

  ParameterStore& store_;
  OptimizerConfig config_;
  const Backend& ops_;
  Stream& stream_;
  Communicator* world_;
  OwnedTensor sums_;  // f64 [2]: square sum of the gradients, loss
  OwnedTensor scale_, host_sums_;
  std::optional<TrustRatios> trust_ratios_;  // lamb
  std::optional<Sm3Accumulators> sm3_;
  std::int64_t steps_ = 0;
};

}  // namespace neox
