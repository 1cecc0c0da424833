#pragma once
// SM3: a number for each row and each column of a matrix instead of one for each element.

#include <cstdint>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "core/config/config.h"
#include "core/model/parameter_store.h"
#include "core/optim/model_parameters.h"

namespace neox {

/// A part of the optimizer's state that every rank holds whole.
struct SharedState {
  std::string name;       ///< in checkpoints, as those of optimizer_states
  std::string parameter;  ///< that it belongs to
  Tensor tensor;          ///< f32 [rows] or [columns]
};

class Sm3Accumulators {
 public:
  /// `world`, `parameters`: as Optimizer.
  Sm3Accumulators(ParameterStore& store, const OptimizerConfig& config, const Backend& ops,
                  Stream& stream, Communicator* world,
                  const std::vector<ModelParameter>& parameters);

  /// A step of SM3-II (kernels/factored_rules.h) over the store; gradients times `scale` f32 [1].
  /// Every rank keeps the accumulators of the whole model, [rows] and [columns] of each matrix and
  /// [n] of each vector: their maxima over the world are the same whatever ranks hold which
  /// elements, and exact, so that no layout changes a bit. Collective.
  void step(double lr, ConstTensor scale);

  std::vector<SharedState> states() const;
  void clear();
  std::size_t bytes() const;

 private:
  struct Factors {
    Tensor rows, columns;  // columns: empty for vectors
  };
  Factors factors(const OwnedTensor& all, std::size_t place) const;

  ParameterStore& store_;
  OptimizerConfig config_;
  const Backend& ops_;
  Stream& stream_;
  Communicator* world_;
  std::vector<ModelParameter> parameters_;
  std::vector<std::int64_t> offsets_;  // of each parameter's accumulators, and the end
  std::vector<std::int64_t> places_;   // of the store's parameters among all
  OwnedTensor kept_, next_;            // f32 [offsets_.back()]
};

}  // namespace neox
