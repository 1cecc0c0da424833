#pragma once
// What a person sees of a running training: the bar on a terminal, one line a step in logs.

#include <chrono>
#include <cstdint>
#include <mutex>
#include <string>

namespace neox {

/// One optimizer step's numbers. Rates are of the whole job.
struct StepReport {
  std::int64_t step = 0;  ///< steps done, 1-based
  std::int64_t total_steps = 0;
  std::int64_t consumed_tokens = 0;
  double loss = 0;  ///< nats per token
  double lr = 0;
  double grad_norm = 0;  ///< before clipping
  double seconds = 0;    ///< of this step (mean over the log interval)
  double tokens_per_second = 0;
  double flops_per_second = 0;
  double peak_flops_per_second = 0;  ///< 0: unknown, no MFU is shown
  double loss_scale = 0;             ///< 0: there is none
};

/// The line for log files and pipes:
/// "step 740/2000 | loss 3.2143 | lr 9.87e-04 | grad norm 0.512 | 11.2 K tokens/s | 0.412 TFLOP/s |
/// ..."
std::string step_line(const StepReport& report);

struct BarStyle {
  int columns = 80;      ///< of the terminal; the result is narrower by at least one
  bool unicode = true;   ///< else ASCII
  bool color = true;     ///< ANSI colours
  std::string activity;  ///< "validating", "saving": shown in place of the ETA
};

/// The bar, without line end or cursor movement. What does not fit is left out, the least important
/// first. `eta_seconds` < 0: unknown.
std::string progress_bar(const StepReport& report, double eta_seconds, const BarStyle& style);

/// Draws the bar in place at the bottom of the terminal, below the log's lines (set_log_interlude:
/// so at most one object may exist). Without a terminal on stderr it does nothing. Under mpirun,
/// whose ranks write into pipes, the terminal is mpirun's own; only one rank may draw.
class ProgressBar {
 public:
  /// `first_step`: steps done before this process (resume). `enabled` = false: does nothing.
  ProgressBar(std::int64_t first_step, bool enabled);
  /// Leaves the last state on the terminal and moves below it.
  ~ProgressBar();
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  /// For the ranks that don't draw: their log lines (warnings) first clear the line on which
  /// another rank's bar may stand. Does nothing without a terminal.
  static void clear_before_log_lines();

  /// True where a bar is shown: per-step lines then belong in the log file only.
  bool active() const { return terminal_ >= 0; }
  /// Redraws, at most 20 times a second (always for the last step).
  void update(const StepReport& report);
  /// Says what the run does between steps ("validating", "saving"); empty: training again.
  void set_activity(const std::string& activity);

 private:
  using Clock = std::chrono::steady_clock;
  void clear();
  void draw();
  double eta_seconds() const;

  int terminal_ = -1;  // descriptor whose width counts
  bool unicode_ = true, color_ = true, drawn_ = false;
  std::mutex mutex_;
  StepReport report_;
  std::string activity_;
  Clock::time_point start_ = Clock::now(), last_draw_{}, first_report_{};
  std::int64_t first_report_step_ = -1;
};

}  // namespace neox
