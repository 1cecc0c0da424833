#pragma once
// When and how a run's checkpoints are written while it trains: in the background, again after a
// failure, and never two at a time.

#include <chrono>
#include <cstdint>
#include <optional>
#include <set>
#include <string>

#include "comm/communicator.h"
#include "core/config/config.h"
#include "core/train/engine.h"
#include "core/train/host_snapshot.h"
#include "core/train/post_save_command.h"
#include "core/train/run_state.h"
#include "io/checkpoint/checkpoint.h"

namespace neox {

/// A save that fails (disk full, I/O error, on any rank) is a warning: training goes on, and the
/// state of then is saved after first_retry, twice that, four times that, ... (at most 64 times).
/// After checkpoint.max_failures failures in a row it is an Error. The constructor and all methods
/// but mine_*() are collective over the run's ranks.
class RunSaver {
 public:
  /// The state that is saved is `engine`'s. `config.checkpoint.save` must not be empty. Allocates
  /// the copy's memory; throws the same Error on every rank when it is missing anywhere.
  RunSaver(Communicator& world, Engine& engine, const Config& config, std::string config_text,
           std::chrono::milliseconds first_retry = std::chrono::seconds(10));
  ~RunSaver();
  RunSaver(const RunSaver&) = delete;
  RunSaver& operator=(const RunSaver&) = delete;

  /// Saves the state of now, unless it is saved or under way already. In the background a copy of
  /// the state is made beside the next step's forward and backward, and its update waits for that
  /// (Engine::on_update); nothing else may change the state before. Finishes an older save first.
  /// Does nothing while an attempt after a failure is due: however often a run saves, a disk that
  /// is full for a minute does not use up max_failures.
  void begin(const Progress& progress);

  /// A save is under way; the same on all ranks.
  bool pending() const { return pending_.has_value(); }

  /// What this rank knows at the end of a step; the ranks exchange it with the step's losses.
  bool mine_through() const { return pending_ && pending_->through(); }
  bool mine_wants_retry() const;
  /// Between two steps. `through`: mine_through() on all ranks; `retry`: mine_wants_retry() on any.
  void between_steps(const Progress& progress, bool through, bool retry);

  /// Before the program leaves: returns when the state of now is saved. Throws Error when it cannot
  /// be after max_failures attempts.
  void finish(const Progress& progress);

  /// Finishes a save that is under way, well or not.
  void drain() { complete(); }

  /// What the slowest save took, from the copy to the last byte on the disk.
  double longest_save_seconds() const { return longest_save_seconds_; }
  /// How long the last save has kept training waiting so far.
  double stall_seconds() const { return stall_seconds_; }

  /// Before the program leaves: waits for post_save_command, at most post_save_timeout seconds.
  void finish_commands();

  /// The run continues from the checkpoint of this step in checkpoint.save. Later ones that lie
  /// there (damaged ones, say) do not count among the last that are kept.
  void set_saved(std::int64_t step);
  /// The newest committed checkpoint of this run's history; -1: none.
  std::int64_t saved_step() const { return saved_step_; }

 private:
  void attempt(const Progress& progress);
  void wait_for_copy();
  void start(const Progress& progress);
  void commit();
  void complete();
  void failed(const std::string& message);
  void print_best_interval(const SaveReport& report, double stall);

  Communicator& world_;
  Engine& engine_;
  const Config& config_;
  std::string config_text_;
  std::chrono::milliseconds first_retry_;
  bool background_;
  std::optional<HostSnapshot> snapshot_;  // where saving needs a copy
  std::optional<CheckpointSave> pending_;
  std::int64_t pending_step_ = -1;
  double stall_seconds_ = 0;
  double longest_save_seconds_ = 0;
  std::int64_t saved_step_ = -1;      // newest committed
  std::set<std::int64_t> discarded_;  // on rank 0: checkpoints that the run did not continue from
  std::int64_t failures_ = 0;         // in a row
  std::chrono::steady_clock::time_point retry_at_{};
  std::optional<PostSaveCommand> command_;  // on rank 0
  bool printed_interval_ = false;
  // First and latest between_steps(): how long a step takes.
  std::int64_t first_step_ = -1, latest_step_ = -1;
  std::chrono::steady_clock::time_point first_time_{}, latest_time_{};
};

}  // namespace neox
