#pragma once
// Which factor the loss has in fp16 training, from step to step (docs/precision.md).

#include <cstdint>

#include "core/config/config.h"

namespace neox {

/// What a loss scaler remembers, in checkpoints too.
struct LossScalerState {
  double scale = 0.0;           ///< of the next step; 0: the run has never scaled its loss
  std::int64_t hysteresis = 0;  ///< overflows until the next one halves the scale, that included
  std::int64_t good_steps = 0;  ///< since the last overflow
  std::int64_t overflow_steps = 0;  ///< of the run: steps skipped by the scaler
  bool dynamic = false;
  friend bool operator==(const LossScalerState&, const LossScalerState&) = default;
};

/// The state machine of GPT-NeoX's loss scale (DeepSpeed's DynamicLossScaler):
///  - the scale doubles after every loss_scale_window steps without an overflow, up to
///    kMaxLossScale;
///  - of the overflows since it last doubled (consecutive_hysteresis: of those in a row), the
///    hysteresis-th and each one after it halve the scale, not below min_loss_scale;
///  - one that would have to halve the smallest scale ends the run.
/// A static scale never changes. Without fp16 the scale is 1.
/// Every rank has one; they decide alike, because they see the same numbers.
class LossScaler {
 public:
  /// `state` is the run's, also after it was loaded anew. A dynamic scale goes on where the state
  /// stands, when it is that of a dynamic one; else it starts anew.
  LossScaler(const PrecisionConfig& config, LossScalerState& state);

  /// False: the scale is 1 and nothing is reported.
  bool active() const { return config_.scales_loss(); }
  /// For the step to come.
  double scale() const { return active() ? state_.scale : 1.0; }

  enum class Verdict : std::uint8_t {
    fine,
    overflow,  ///< the step changed nothing; the next one may have another scale
    stop,      ///< an overflow at the smallest scale
    other      ///< not the scaler's matter: loss or gradients are wrong without the scale
  };
  /// After a step that was computed with scale(). `loss`, `grad_norm`: of all ranks. With a dynamic
  /// scale, an overflow is a gradient that is not finite though the loss is: the scale has no part
  /// in the loss, and a smaller one would not mend it.
  Verdict end_step(double loss, double grad_norm);

 private:
  void grow();
  bool shrink();

  PrecisionConfig config_;
  LossScalerState& state_;
};

}  // namespace neox
