#pragma once

#include <array>
#include <csignal>

namespace neox {

/// While it lives, SIGTERM and SIGUSR1 (what SLURM's --signal sends before the time limit) only set
/// a flag, which the training loop reads between steps. At most one object at a time.
class StopSignals {
 public:
  /// Clears the flag and takes the signals over.
  StopSignals();
  /// Gives them back to whom they had before.
  ~StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;

  /// The last signal that arrived on this rank, or 0. Ranks must agree on it before they act.
  int received() const;
  /// "SIGTERM"; for the log.
  static const char* name_of(int signal);

 private:
  struct Saved {
    int number;
    struct sigaction action;
  };
  std::array<Saved, 2> saved_{};
};

}  // namespace neox
