#pragma once
// One way to time a training step, for every benchmark that does.

#include <cstdint>
#include <memory>
#include <vector>

#include "core/config/config.h"
#include "core/parallel/schedule.h"
#include "core/tensor/device.h"

namespace neox::bench {

struct TrainingStepProblem {
  ModelConfig model;       ///< resolved (resolve_model)
  std::int64_t batch = 1;  ///< sequences of model.seq_length in a step, one micro-batch
  DType precision = DType::bf16;
  Device device{};            ///< its runtime must be registered
  bool deterministic = true;  ///< BackendOptions
};

/// Of the timed steps.
struct TrainingStepTimes {
  std::vector<double> seconds;   ///< sorted; forward, backward and AdamW
  double forward_seconds = 0;    ///< median, of forward alone, timed apart
  double optimizer_seconds = 0;  ///< median: norm, clipping and AdamW
  double loss = 0;               ///< of the last step
  std::int64_t allocations = 0;  ///< during the timed steps
  std::int64_t peak_bytes = 0;   ///< allocated at most while measuring
  double median() const { return seconds[seconds.size() / 2]; }
};

/// GPT-2 with 12 layers of 768 channels.
ModelConfig gpt2_124m(std::int64_t seq);

/// FLOPs of one token, forward and backward: 6 N + 12 L h s as flops_per_token() counts them, or
/// with `causal` attention's products over visible pairs only, 6 N + 6 L h s.
double training_flops_per_token(const ModelConfig& model, bool causal);

/// A model with its optimizer that trains on one batch of random tokens, on one rank.
class TrainingStep {
 public:
  /// Allocates everything. Throws Error where it does not fit.
  explicit TrainingStep(const TrainingStepProblem& problem);
  ~TrainingStep();
  /// Runs `warm_up` steps and times the `steps` that follow. `forward_too` also times passes
  /// without gradients, after them.
  TrainingStepTimes measure(int warm_up, int steps, bool forward_too = false);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace neox::bench
