#include "core/train/run_saver.h"

#include <algorithm>
#include <thread>
#include <utility>

#include "comm/activity.h"
#include "core/base/format.h"
#include "core/base/log.h"
#include "core/train/checkpoint_policy.h"

namespace neox {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::int64_t kMostDoublings = 6;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

}  // namespace

RunSaver::RunSaver(Communicator& world, Engine& engine, const Config& config,
                   std::string config_text, std::chrono::milliseconds first_retry)
    : world_(world),
      engine_(engine),
      config_(config),
      config_text_(std::move(config_text)),
      first_retry_(first_retry),
      background_(saves_in_background(config.checkpoint)) {
  const CheckpointConfig& c = config.checkpoint;
  std::string error;
  try {
    const std::size_t bytes = checkpoint_copy_bytes(engine.model(), engine.optimizer(), c);
    if (bytes > 0) snapshot_.emplace(bytes, engine.ops().device());
  } catch (const Error& failure) {
    error = std::string(failure.what()) +
            "; the CPU engine needs none with checkpoint.async_save = false";
  }
  agree(world, "allocating the memory that checkpoints are copied to", error);
  engine.on_update([this] { wait_for_copy(); });
  if (world.rank() == 0 && !c.post_save_command.empty()) {
    command_.emplace(c.post_save_command, std::chrono::duration<double>(c.post_save_timeout));
  }
}

RunSaver::~RunSaver() {
  engine_.on_update({});
}

void RunSaver::wait_for_copy() {
  if (!pending_ || !snapshot_) return;
  const auto begin = Clock::now();
  snapshot_->wait();
  stall_seconds_ += seconds_since(begin);
}

void RunSaver::set_saved(std::int64_t step) {
  saved_step_ = step;
  if (world_.rank() != 0) return;
  try {
    for (const FoundCheckpoint& found : find_checkpoints(config_.checkpoint.save)) {
      if (found.step > step) discarded_.insert(found.step);
    }
  } catch (const std::exception& failure) {
    log_warning("{}", failure.what());
  }
}

// One clock decides: ranks that compared their own would disagree near the moment.
bool RunSaver::mine_wants_retry() const {
  return world_.rank() == 0 && failures_ > 0 && !pending_ && Clock::now() >= retry_at_;
}

void RunSaver::begin(const Progress& progress) {
  if (failures_ > 0 && !pending_) {
    log_info("step {}: no checkpoint now; the one of step {} failed, and is tried again soon",
             progress.step, pending_step_);
    return;
  }
  attempt(progress);
}

void RunSaver::attempt(const Progress& progress) {
  if (saved_step_ == progress.step || (pending_ && pending_step_ == progress.step)) return;
  if (pending_) {
    if (world_.rank() == 0 && !pending_->through()) {
      log_warning(
          "step {}: the checkpoint of step {} is not written yet; waiting for it. Save less often "
          "(checkpoint.checkpoint_factor), or to a faster disk",
          progress.step, pending_step_);
    }
    complete();
    if (failures_ > 0) return;  // the state of now is saved when the next attempt is due
  }
  start(progress);
  if (!background_) complete();
}

void RunSaver::start(const Progress& progress) {
  Activity::set("saving", progress.step);
  const auto begin = Clock::now();
  pending_step_ = progress.step;
  try {
    RunImage image =
        run_image(engine_.model(), engine_.optimizer(), config_, config_text_, progress);
    if (snapshot_) snapshot_->place(image.tensors, engine_.stream());
    if (snapshot_ && !background_) snapshot_->fill();
    SaveOptions options = save_options(config_.checkpoint);
    // What the command still reads (an upload, say) goes at a later save.
    options.keep = [this, milestone = options.keep](std::int64_t step) {
      return milestone(step) || (command_ && command_->needs(step));
    };
    options.discarded = [this](std::int64_t step) { return discarded_.contains(step); };
    pending_.emplace(world_, config_.checkpoint.save, image.tensors, image.info, options);
    if (background_) pending_->start([this] { snapshot_->fill(); });
    stall_seconds_ = seconds_since(begin);
  } catch (const Error& error) {
    failed(error.what());
  }
}

// All ranks have written.
void RunSaver::commit() {
  Activity::set("saving", pending_step_);
  const auto begin = Clock::now();
  try {
    pending_->start_commit();
    stall_seconds_ += seconds_since(begin);
  } catch (const Error& error) {
    failed(error.what());
  }
}

void RunSaver::complete() {
  if (!pending_) return;  // its start failed
  Activity::set("saving", pending_step_);
  try {
    const auto begin = Clock::now();
    const SaveReport report = pending_->finish();
    pending_.reset();
    saved_step_ = pending_step_;
    discarded_.erase(saved_step_);
    failures_ = 0;
    stall_seconds_ += seconds_since(begin);
    longest_save_seconds_ = std::max(longest_save_seconds_, stall_seconds_ + report.seconds());
    const std::string stall =
        background_ ? fmt::format("; training stood still for {:.2f} s", stall_seconds_) : "";
    log_info("saved {} ({} in {:.2f} s, {:.2f} GB/s{})", report.path,
             format_bytes(static_cast<std::uint64_t>(report.bytes)), report.seconds(),
             static_cast<double>(report.bytes) / 1e9 / report.seconds(), stall);
    if (command_) command_->add(saved_step_, report.path);
    print_best_interval(report, stall_seconds_);
  } catch (const Error& error) {
    failed(error.what());
  }
}

// Time that training stands still is lost with every save; half an interval with every failure.
void RunSaver::print_best_interval(const SaveReport& report, double stall) {
  const double mtbf = config_.checkpoint.mtbf_hours * 3600;
  if (mtbf <= 0 || std::exchange(printed_interval_, true)) return;
  // A save must be through before the next begins.
  const double best = std::max(best_save_interval(stall, mtbf), report.seconds());
  std::string steps;
  if (latest_step_ > first_step_) {
    const double step_seconds = std::chrono::duration<double>(latest_time_ - first_time_).count() /
                                static_cast<double>(latest_step_ - first_step_);
    steps =
        fmt::format(", {:.0f} steps of {:.3g} s", std::max(best / step_seconds, 1.0), step_seconds);
  }
  log_info(
      "best save interval: {:.3g} min{} (Young-Daly: a save costs {:.3g} s of training, "
      "checkpoint.mtbf_hours = {:g})",
      best / 60, steps, stall, config_.checkpoint.mtbf_hours);
}

void RunSaver::failed(const std::string& message) {
  pending_.reset();
  ++failures_;
  const std::int64_t most = config_.checkpoint.max_failures;
  const std::string last =
      saved_step_ < 0 ? "no checkpoint was written yet"
                      : fmt::format("the newest checkpoint is that of step {}", saved_step_);
  if (failures_ >= most) {
    fail("{}. This was failure {} in a row of {} (checkpoint.max_failures); {}", message, failures_,
         most, last);
  }
  const std::chrono::milliseconds delay =
      first_retry_ * (std::int64_t{1} << std::min(failures_ - 1, kMostDoublings));
  retry_at_ = Clock::now() + delay;
  if (world_.rank() != 0) return;  // all ranks know; one line is enough
  log_warning("{}. Training goes on; next attempt in {} s, failure {} of {}; {}", message,
              std::chrono::duration<double>(delay).count(), failures_, most, last);
}

void RunSaver::between_steps(const Progress& progress, bool through, bool retry) {
  latest_time_ = Clock::now();
  latest_step_ = progress.step;
  if (first_step_ < 0) {
    first_step_ = latest_step_;
    first_time_ = latest_time_;
  }
  if (command_) command_->poll();
  if (pending_ && through) pending_->committing() ? complete() : commit();
  if (retry) attempt(progress);
}

void RunSaver::finish(const Progress& progress) {
  attempt(progress);
  complete();
  while (saved_step_ != progress.step) {
    // Each rank by its own clock: attempt() waits for the slowest.
    while (Clock::now() < retry_at_) {
      Activity::tick();
      std::this_thread::sleep_for(std::min(first_retry_, std::chrono::milliseconds(100)));
    }
    attempt(progress);
    complete();
  }
}

void RunSaver::finish_commands() {
  if (config_.checkpoint.post_save_command.empty()) return;
  if (command_) command_->finish();
  world_.barrier();  // one rank must not leave early: the launcher might end the others
}

}  // namespace neox
