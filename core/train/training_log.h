#pragma once
// What a run says while it trains: progress bar, one line a step, metrics.jsonl, TensorBoard.

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "comm/communicator.h"
#include "core/config/config.h"
#include "core/train/straggler_report.h"

namespace neox {

/// One optimizer step as it was measured.
struct StepMeasurement {
  std::int64_t step = 0;  ///< steps done
  double loss = 0.0, grad_norm = 0.0, lr = 0.0;
  double seconds = 0.0;       ///< wall time of the step
  double data_seconds = 0.0;  ///< of it, waiting for data
  std::int64_t tokens = 0;    ///< in this step's global batch
  std::int64_t consumed_tokens = 0;
  std::int64_t skipped_steps = 0;                 ///< of the run, that changed nothing
  std::optional<double> loss_z{}, grad_norm_z{};  ///< when they are known
  double loss_scale = 0.0;                        ///< of this step; 0: there is none
  std::int64_t overflow_steps = 0;                ///< of the run, skipped by the loss scaler
};

/// Active on rank 0; on other ranks every call does nothing.
class TrainingLog {
 public:
  /// `first_step`: steps already done; what an earlier start of the run logged after it is dropped.
  /// Collective; throws the same Error everywhere when a log can't be written.
  TrainingLog(const Config& config, Communicator& group, std::int64_t first_step,
              double flops_per_token);
  ~TrainingLog();

  void step(const StepMeasurement& measured);
  void validation(std::int64_t step, double loss);
  /// The run goes on after `step`: what was logged later is dropped. Collective as the constructor.
  void rewind(std::int64_t step);
  void stragglers(std::int64_t step, const StragglerFindings& found);
  /// What the run does between steps ("validating", "saving"); empty: training again.
  void activity(const std::string& what);

 private:
  void open_sinks(std::int64_t first_step);

  LoggingConfig logging_;
  Communicator& group_;
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace neox
