#pragma once
// A job under mpirun that runs while the test does things to its ranks.

#include <map>
#include <string>
#include <sys/types.h>

#include "tests/app/program_runner.h"

namespace neox::testing {

class Job {
 public:
  /// Starts `command` (mpirun …) in `folder` of the workspace.
  Job(const Workspace& workspace, const std::string& command, const std::string& folder);
  /// Kills what is left.
  ~Job();
  Job(const Job&) = delete;
  Job& operator=(const Job&) = delete;

  /// Processes of `program` that live, by MPI rank.
  std::map<int, pid_t> ranks(const std::string& program = "neox_train") const;
  /// Waits until all `count` ranks are there; false after `seconds`.
  bool wait_for_ranks(int count, double seconds = 60,
                      const std::string& program = "neox_train") const;
  /// Waits until stderr holds `text`; false after `seconds` or when the job ends.
  bool wait_for_text(const std::string& text, double seconds = 60);
  /// Waits for mpirun and every rank to be gone; the seconds it took, or a negative number when
  /// they were not gone after `seconds`.
  double wait(double seconds, const std::string& program = "neox_train");
  bool running();
  /// For a launcher that stays when all ranks are gone.
  void kill_launcher();
  /// Whether the launcher itself died of a signal, by its own report.
  bool launcher_crashed() const;
  /// What is left of the job: a line per process.
  std::string describe() const;
  int exit_code() const { return exit_code_; }
  std::string err() const;

 private:
  const Workspace& workspace_;
  std::filesystem::path shared_memory_;
  pid_t launcher_ = -1;
  bool reaped_ = false;
  int exit_code_ = -1;
};

}  // namespace neox::testing
