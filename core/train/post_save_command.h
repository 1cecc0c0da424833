#pragma once
// checkpoint.post_save_command: what the user wants done with every committed checkpoint, behind
// training's back.

#include <chrono>
#include <cstdint>
#include <deque>
#include <string>
#include <sys/types.h>

namespace neox {

/// Runs `sh -c <command>` once for every file, one after the other, with NEOX_CHECKPOINT (path) and
/// NEOX_CHECKPOINT_STEP in the environment, stdin empty, stdout on stderr, in a process group of
/// its own. Variables of the MPI launcher are left out: the command may start MPI programs. What
/// goes wrong is a warning. Rank-local; only finish() waits.
class PostSaveCommand {
 public:
  /// `limit`: of finish().
  PostSaveCommand(std::string command, std::chrono::duration<double> limit);
  /// A command that still runs goes on without us.
  ~PostSaveCommand() = default;
  PostSaveCommand(const PostSaveCommand&) = delete;
  PostSaveCommand& operator=(const PostSaveCommand&) = delete;

  /// Takes a file on and starts its command unless another still runs.
  void add(std::int64_t step, std::string path);
  /// Looks whether the running command has ended, and starts the next.
  void poll();
  /// True while the command of this step's file is still to come or runs.
  bool needs(std::int64_t step) const;
  /// Waits until all are done; after `limit` the running one is ended, and what is left is named.
  void finish();

 private:
  struct Job {
    std::int64_t step;
    std::string path;
  };

  void start_next();
  void report(int status) const;
  void end_running();

  std::string command_;
  std::chrono::duration<double> limit_;
  std::deque<Job> jobs_;  // the first runs when running_ > 0
  pid_t running_ = -1;
};

}  // namespace neox
