// What becomes of a step that was computed: it counts, its gradients overflowed, or the run goes
// back.

#include "comm/activity.h"
#include "core/base/log.h"
#include "core/optim/finite_check.h"
#include "core/train/trainer.h"

namespace neox {

bool Trainer::check_loss_scale(const StepResult& result) {
  const LossScaler::Verdict verdict = scaler_->end_step(result.loss, result.grad_norm);
  if (verdict == LossScaler::Verdict::stop) {
    if (saver_) saver_->drain();
    fail(
        "step {}: the gradient is not finite at the loss scale {}, and precision.min_loss_scale "
        "({}) allows no smaller one: {}. What to do: lower optimizer.lr (now {}), raise "
        "schedule.warmup, resume from an earlier checkpoint (checkpoint.iteration), lower "
        "precision.min_loss_scale, or train in bfloat16 (precision.precision)",
        progress_.step, result.loss_scale, config_.precision.min_loss_scale,
        describe_non_finite_gradients(engine_->model().parameters(), engine_->ops(),
                                      engine_->stream(), engine_->topology().world()),
        config_.optimizer.lr);
  }
  if (verdict != LossScaler::Verdict::overflow) return false;
  guard_->pass_over();
  if (world_.rank() == 0) {
    const LossScalerState& state = progress_.loss_scaler;
    log_info("step {}: gradients overflow, step skipped ({} so far); loss scale {}", progress_.step,
             state.overflow_steps,
             state.scale < result.loss_scale
                 ? fmt::format("{} -> {}", result.loss_scale, state.scale)
                 : fmt::format("stays {} (hysteresis: {} more)", state.scale, state.hysteresis));
  }
  return true;
}

bool Trainer::check_step(const StepResult& result) {
  if (result.tokens == 0) {
    ++progress_.guards.skipped_steps;
    if (world_.rank() == 0) {
      log_warning(
          "step {}: no token of the batch has a label that counts: weights were not changed",
          progress_.step);
    }
    return true;
  }
  if (check_loss_scale(result)) return true;
  StepGuard::Questions questions;
  questions.non_finite = [&] {
    return describe_non_finite_gradients(engine_->model().parameters(), engine_->ops(),
                                         engine_->stream(), engine_->topology().world());
  };
  questions.newest_checkpoint = [&] {
    saver_->drain();  // whether a save was through must not depend on the disk's speed
    return saver_->saved_step();
  };
  const Verdict verdict = guard_->end_step(
      {progress_.step, result.loss, result.grad_norm, result.tokens, result.applied}, questions);
  if (verdict == Verdict::stop) {
    if (saver_) saver_->drain();
    fail("{}", guard_->diagnosis(config_.optimizer.lr));
  }
  if (verdict == Verdict::rewind) rewind();
  return verdict != Verdict::rewind;
}

void Trainer::rewind() {
  log_->activity("rewinding");
  Activity::set_unlimited("going back to a checkpoint");
  const Progress before = progress_;
  const auto load = [&](CheckpointReader& reader) {
    progress_ = load_run(reader, engine_->model(), &engine_->optimizer(), LoadScope::everything,
                         engine_->ops(), engine_->stream());
  };
  const auto reader = open_newest(world_, config_.checkpoint.save, load, saver_->saved_step());
  require(reader != nullptr,
          "the checkpoint of step {} in {}, to which the run is to go back, is gone",
          saver_->saved_step(), config_.checkpoint.save);
  loader_.reset();  // it reads the data, which may be opened anew
  settle_data(stored_config(*reader));
  saver_->set_saved(progress_.step);
  const std::vector<SampleRange> left_out =
      SampleOrder(data_.train->size(), {}).samples_of(progress_.next_sample, before.next_sample);
  note_rewind(before.guards, left_out, progress_.guards);
  scaler_.emplace(config_.precision, progress_.loss_scaler);
  log_->rewind(progress_.step);
  if (sample_log_) sample_log_->rewind(progress_.step);
  if (world_.rank() == 0) {
    log_warning(
        "step {}: back to {} (rewind {} of {}); samples {} are left out. The same run without "
        "rewinds: data.skip_sample_ranges = {}",
        before.step, reader->path(), progress_.guards.rewinds, config_.guards.max_rewinds,
        text_of(left_out),
        text_of(skipped_samples(config_, data_, progress_.guards.rewound_samples)));
  }
  log_->activity("");
}

}  // namespace neox
