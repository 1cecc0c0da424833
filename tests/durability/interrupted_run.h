#pragma once
// One training run that is cut off again and again: starts its jobs, and after each checks what
// must hold of its checkpoints and its losses.

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "tests/app/job.h"
#include "tests/app/program_runner.h"
#include "tests/durability/run_log.h"
#include "tests/durability/save_watch.h"

namespace neox::testing {

struct JobLayout {
  int ranks = 1;
  std::string options;
};

/// One to four ranks; tensor, pipeline and data parallelism, every ZeRO stage.
std::vector<JobLayout> twelve_layouts();
/// Twelve that are not among those.
std::vector<JobLayout> twelve_other_layouts();

/// A model that all of them can train, with dropout, over make_corpus()'s corpus in the folder
/// above the run's. Constant batch of 12 samples.
std::string durable_config(std::int64_t steps, std::int64_t save_every, std::int64_t keep_last);

/// Steps of a job without faults and with no saves but the last, in `folder`.
StepRecords uninterrupted_run(const Workspace& workspace, const std::string& config_file,
                              const std::string& folder, const JobLayout& layout,
                              const std::string& options = "");

/// NAME from the environment, else `value`.
std::int64_t number_from_environment(const char* name, std::int64_t value);
/// NEOX_SEED, else a random one; printed.
std::uint64_t choose_seed();

struct RunPlace {
  std::string config;       ///< file in the workspace
  std::string folder;       ///< of the run, in the workspace
  std::string checkpoints;  ///< directory, absolute
  std::string metrics;      ///< file, absolute
  std::string options;      ///< for every job
  std::int64_t steps = 0;   ///< of the whole run
  std::int64_t keep_last = 0;
};

/// What was seen, for the report.
struct Tally {
  int faults = 0, inside_saves = 0, during_start = 0;
  int jobs_finished = 0, resumes = 0, launcher_failures = 0;
  std::int64_t commits = 0, verified = 0, steps_compared = 0, with_samples = 0;
  double worst_loss = 0.0, slowest_end = 0.0;
  std::map<int, int> exit_codes;
};

class InterruptedRun {
 public:
  /// `tolerance`: of losses, relative to the reference's.
  InterruptedRun(const Workspace& workspace, RunPlace place, StepRecords reference,
                 double tolerance);

  /// Starts a job that goes on from what is there.
  void start(const JobLayout& layout, const std::string& environment = "");
  Job& job() { return *job_; }
  SaveWatch& saves() { return *watch_; }

  /// After the job's end: adds `commits` to what must be there, then checks the directory, the
  /// resume and the losses. Everything that is wrong fails the test.
  void check(const std::set<std::int64_t>& commits);

  std::int64_t newest() const { return committed_.empty() ? 0 : *committed_.rbegin(); }
  bool finished() const { return newest() == place_.steps; }
  /// Forgets the run: the next job starts from scratch, in an empty directory.
  void start_over();
  /// What must hold when the last job has finished: every step logged once, no leftovers.
  void check_end();

  const RunPlace& place() const { return place_; }
  Tally tally;

 private:
  void check_directory();
  void check_resume();
  void check_losses(std::int64_t first);

  const Workspace& workspace_;
  RunPlace place_;
  StepRecords reference_;
  double tolerance_;
  std::set<std::int64_t> committed_;  // by all jobs so far
  std::int64_t newest_at_start_ = 0;
  std::unique_ptr<Job> job_;
  std::unique_ptr<SaveWatch> watch_;
};

/// Steps of the checkpoint files in a directory.
std::set<std::int64_t> checkpoints_in(const std::string& directory);
/// Empty when every byte of the checkpoint verifies, else what is wrong.
std::string damage_of(const std::string& directory, std::int64_t step);

}  // namespace neox::testing
