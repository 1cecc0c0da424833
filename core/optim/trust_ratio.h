#pragma once
// LAMB's second half: each tensor's update at the size of the tensor.

#include <cstdint>
#include <vector>

#include "comm/communicator.h"
#include "core/config/config.h"
#include "core/model/parameter_store.h"
#include "core/optim/model_parameters.h"

namespace neox {

class TrustRatios {
 public:
  /// `world`, `parameters`: as Optimizer.
  TrustRatios(ParameterStore& store, const OptimizerConfig& config, const Backend& ops,
              Stream& stream, Communicator* world, const std::vector<ModelParameter>& parameters);

  /// p -= lr ratio r for every parameter, where r lies in the gradients' memory and
  ///   ratio = |p| / |r| between min_coeff and max_coeff; 1 where one of the norms is 0
  /// (You et al., ICLR'20, algorithm 2; the limits are DeepSpeed's). |.| is the L2 norm over the
  /// whole tensor, wherever its parts are: the squares of every rank's owned, counted elements in
  /// f64, summed over the world in rank order, so that it does not depend on the ZeRO stage. The
  /// store's weights are stale in other places afterwards. Collective.
  void apply(double lr);

  std::size_t bytes() const;

 private:
  void sum_squares();
  double ratio(ParameterId id) const;

  ParameterStore& store_;
  double least_, most_;
  const Backend& ops_;
  Stream& stream_;
  Communicator* world_;
  std::vector<std::int64_t> places_;  // of this rank's parameters among all of the model
  OwnedTensor sums_, host_sums_;      // f64 [parameters, 2]: of p and r
  OwnedTensor one_;                   // f32 [1]
};

}  // namespace neox
