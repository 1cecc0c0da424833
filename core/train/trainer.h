#pragma once
// The training loop: steps, validation, checkpoints, metrics, signals.

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "comm/communicator.h"
#include "comm/device_world.h"
#include "core/config/config.h"
#include "core/optim/loss_scaler.h"
#include "core/optim/lr_schedule.h"
#include "core/train/data_source.h"
#include "core/train/engine.h"
#include "core/train/profiler_window.h"
#include "core/train/run_saver.h"
#include "core/train/run_state.h"
#include "core/train/sample_log.h"
#include "core/train/signals.h"
#include "core/train/step_guard.h"
#include "core/train/step_profiler.h"
#include "core/train/straggler_report.h"
#include "core/train/time_limit.h"
#include "core/train/training_log.h"

namespace neox {

/// Why run() returned.
enum class StopReason : std::uint8_t {
  finished,      ///< train_iters reached
  signal,        ///< SIGTERM or SIGUSR1: state saved
  job_end,       ///< the job ends soon: state saved
  exit_interval  ///< exit_interval steps done: state saved
};

class Trainer {
 public:
  /// `config` is resolved for world.size() ranks, with the vocabulary size known; `config_text` is
  /// what checkpoints keep. Opens data, builds the model, and initialises it or resumes:
  ///  - the run's own directory (checkpoint.save) holds checkpoints: continue there;
  ///  - otherwise checkpoint.load: continue from it (or take its weights, finetune); an Error when
  ///    it holds none;
  ///  - otherwise start at step 0.
  /// `node`: the ranks of this node (MpiEnvironment::node()). Collective; throws Error.
  Trainer(Communicator& world, Communicator& node, const Config& config, std::string config_text);
  ~Trainer();

  StopReason run();

  const Progress& progress() const { return progress_; }
  const Transformer& model() const { return engine_->model(); }

 private:
  struct StepResult {
    double loss = 0.0;  // mean over the global batch's unmasked tokens
    double grad_norm = 0.0;
    bool applied = false;         // else the step changed nothing
    std::int64_t tokens = 0;      // unmasked, of the global batch
    std::int64_t all_tokens = 0;  // masked ones too
    double lr = 0.0;
    double loss_scale = 0.0;             // 0: there is none
    double seconds = 0.0, waited = 0.0;  // of the step; for data, therein
    std::optional<StragglerFindings> stragglers;
    bool stop_requested = false;
    bool job_ends = false;
    bool save_through = false;  // what was to be written by now, on all ranks
    bool save_again = false;    // a failed one
  };

  /// What this rank computes on (system.device): the same kind on all ranks.
  Device choose_run_device(Communicator& node) const;
  void check_input() const;
  void start();
  bool resume_from(const std::string& directory, LoadScope scope);
  void print_summary() const;
  StepResult train_step(const StepBatch& batch, double lr);
  /// Once, after the first step: what it took of the device's memory, libraries included.
  void report_device_memory();
  /// False: the run stands at an earlier step again.
  bool check_step(const StepResult& result);
  /// True: the loss scaler skipped the step.
  bool check_loss_scale(const StepResult& result);
  void rewind();
  BatchLoader open_loader() const;
  StopReason run_steps();
  /// Data, computation, update; the run stands at the next step then.
  StepResult next_step(BatchLoader& loader, const LrSchedule& schedule);
  void report_step(const StepResult& result);
  /// Checks, saves, validates; a reason to leave, when there is one.
  std::optional<StopReason> between_steps(const StepResult& result);
  double evaluate();
  /// Unless the weights may be damaged: good checkpoints must not make room for them.
  void save();
  /// The same before leaving: returns when all is on the disk.
  void save_and_wait();

  StopSignals signals_;  // first: setting up may take long, and must not end in a signal's default
  TimeLimit time_limit_;
  Communicator& world_;
  Config config_;
  std::string config_text_;
  RunData data_;
  std::optional<DeviceWorld> device_world_;  // what tensors travel through
  std::optional<Engine> engine_;
  std::unique_ptr<TrainingLog> log_;
  std::optional<SampleLog> sample_log_;   // logging.log_samples
  std::optional<StepProfiler> profiler_;  // logging.profile
  std::optional<ProfilerWindow> window_;  // logging.profile_step_start
  std::size_t free_at_start_ = 0;         // bytes of the device, before anything was allocated
  std::optional<StragglerReport> stragglers_;
  std::optional<RunSaver> saver_;  // with checkpoint.save
  Progress progress_;
  std::int64_t first_step_ = 0;  // of this process
  std::string resumed_from_;     // path of the checkpoint; empty: none
  std::optional<StepGuard> guard_;
  std::optional<LossScaler> scaler_;
};

}  // namespace neox
