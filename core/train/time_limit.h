#pragma once

#include "core/config/config.h"

namespace neox {

/// When a run must stop because its job ends. One rank asks, and the others follow: clocks differ.
/// Times are seconds of UNIX time.
class TimeLimit {
 public:
  /// The job ends at `end` (0: never). The run has to leave `margin` seconds before, but never uses
  /// up more than a quarter of the time from `now` on for that: short jobs train too.
  TimeLimit(double end, double margin, double now);

  /// Whether to save and leave now, because another round (everything between two calls: a step,
  /// and what comes with some of them) may take too long. A round is taken to last as long as the
  /// longest so far, and the save `save_seconds`.
  bool reached(double now, double save_seconds);

  bool unlimited() const { return end_ <= 0; }
  double end() const { return end_; }
  double margin() const { return margin_; }

 private:
  double end_;
  double margin_;
  double last_call_ = -1;  // none yet: what comes before is setting up, which is done once
  double longest_round_ = 0;
};

/// UNIX time in seconds.
double unix_seconds();

/// What train.job_end and train.exit_margin say; without the former, SLURM's SLURM_JOB_END_TIME.
/// Throws Error when that is not a number.
TimeLimit time_limit_of(const TrainConfig& config);

}  // namespace neox
