#pragma once
// Numerical guards (docs/guards.md): which steps must not change the weights, and what a run does
// about them.

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "core/base/log.h"
#include "core/config/config.h"
#include "core/train/engine.h"
#include "core/train/guard_state.h"

namespace neox {

/// Of the values of a window.
struct WindowStatistics {
  double mean = 0.0;
  /// Of the population; at least 1e-4 |mean|, so that values which hardly ever change don't make
  /// spikes of rounding errors. 0 when all values are 0: no value is then above any limit.
  double deviation = 0.0;

  double z(double value) const;
  /// The largest value that is no spike: mean + z deviation.
  double limit(double z) const;
};
WindowStatistics statistics_of(std::span<const double> values);

/// A step that was done.
struct GuardedStep {
  std::int64_t step = 0;  ///< 1-based
  double loss = 0.0, grad_norm = 0.0;
  std::int64_t tokens = 0;  ///< with a loss; a step without any says nothing
  bool applied = false;     ///< Engine::StepResult::applied
};

enum class Verdict : std::uint8_t {
  fine,
  skipped,  ///< nothing was changed; go on
  rewind,   ///< go back to the newest checkpoint
  stop      ///< end the run with StepGuard::diagnosis()
};

/// Every rank has one; they decide alike, because they see the same numbers.
class StepGuard {
 public:
  /// What the guard asks about a step that was not fine. Called on all ranks alike.
  struct Questions {
    std::function<std::string()> non_finite;          ///< which gradients, on which rank
    std::function<std::int64_t()> newest_checkpoint;  ///< step of this run's; -1: none
  };

  /// `state` is the run's, also after it was loaded anew. `speaks`: on one rank, which logs.
  StepGuard(const GuardsConfig& config, GuardState& state, bool speaks = true);

  /// For the step to come.
  Engine::StepLimits limits();
  /// After the step; logs what happened when it was not fine.
  Verdict end_step(const GuardedStep& step, const Questions& questions);
  /// Instead of end_step() for a step that the loss scaler skipped: the guard learns nothing of it.
  void pass_over();

  /// Of the last step, while there is a full window before it.
  std::optional<double> loss_z() const { return loss_z_; }
  std::optional<double> grad_norm_z() const { return grad_norm_z_; }
  /// The last step's numbers were not finite: the weights may be damaged.
  bool non_finite() const { return non_finite_; }
  /// Why the run ends, after Verdict::stop: what, where, the latest steps, what to do.
  std::string diagnosis(double lr) const;

 private:
  template <class... Args>
  void warn(fmt::format_string<Args...> format, Args&&... args) const {
    if (speaks_) log_warning(format, std::forward<Args>(args)...);
  }
  void look_back();
  bool is_spike(const GuardedStep& step) const;
  std::string describe(const GuardedStep& step) const;
  Verdict spike(const GuardedStep& step, const Questions& questions);
  Verdict skip();
  void record(const GuardedStep& step);

  GuardsConfig config_;
  GuardState& state_;
  bool speaks_;
  std::optional<WindowStatistics> losses_, grad_norms_;  // of a full window
  std::optional<double> loss_z_, grad_norm_z_;
  std::vector<GuardedStep> latest_;  // for the diagnosis
  std::string last_;                 // what was wrong with the last step
  bool non_finite_ = false;
};

}  // namespace neox
