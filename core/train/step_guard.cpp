#include "core/train/step_guard.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include <fmt/format.h>

#include "core/base/error.h"

namespace neox {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kLeastDeviation = 1e-4;  // of the mean
constexpr std::size_t kLatest = 8;

void keep_newest(std::vector<double>& values, std::size_t count) {
  if (values.size() <= count) return;
  values.erase(values.begin(), values.end() - static_cast<std::ptrdiff_t>(count));
}

}  // namespace

// ---- statistics ---------------------------------------------------------------------------------

// From the values anew each time: no state but the values, so that a resumed run has the same bits.
WindowStatistics statistics_of(std::span<const double> values) {
  WindowStatistics result;
  if (values.empty()) return result;
  const auto count = static_cast<double>(values.size());
  for (const double value : values) result.mean += value;
  result.mean /= count;
  double squares = 0.0;
  for (const double value : values) squares += (value - result.mean) * (value - result.mean);
  result.deviation = std::max(std::sqrt(squares / count), kLeastDeviation * std::abs(result.mean));
  return result;
}

double WindowStatistics::z(double value) const {
  return deviation > 0 ? (value - mean) / deviation : 0.0;
}

double WindowStatistics::limit(double z) const {
  return z > 0 && deviation > 0 ? mean + z * deviation : kInfinity;
}

// ---- steps --------------------------------------------------------------------------------------

StepGuard::StepGuard(const GuardsConfig& config, GuardState& state, bool speaks)
    : config_(config), state_(state), speaks_(speaks) {}

void StepGuard::look_back() {
  losses_.reset();
  grad_norms_.reset();
  const auto window = static_cast<std::size_t>(config_.detects_spikes() ? config_.spike_window : 0);
  keep_newest(state_.losses, window);  // it may have been larger before a resume
  keep_newest(state_.grad_norms, window);
  if (window == 0 || state_.losses.size() < window) return;
  losses_ = statistics_of(state_.losses);
  grad_norms_ = statistics_of(state_.grad_norms);
}

Engine::StepLimits StepGuard::limits() {
  look_back();
  Engine::StepLimits limits;
  if (!losses_ || config_.action == "warn") return limits;
  limits.loss = losses_->limit(config_.loss_z);
  limits.grad_norm = grad_norms_->limit(config_.grad_norm_z);
  return limits;
}

// The same comparison that the optimizer makes.
bool StepGuard::is_spike(const GuardedStep& step) const {
  return losses_ && (step.loss > losses_->limit(config_.loss_z) ||
                     step.grad_norm > grad_norms_->limit(config_.grad_norm_z));
}

Verdict StepGuard::end_step(const GuardedStep& step, const Questions& questions) {
  loss_z_.reset();
  grad_norm_z_.reset();
  if (latest_.size() == kLatest) latest_.erase(latest_.begin());
  latest_.push_back(step);
  non_finite_ = !std::isfinite(step.loss) || !std::isfinite(step.grad_norm);
  if (!step.applied) ++state_.skipped_steps;
  if (non_finite_) {
    if (config_.action == "warn") state_.spikes_in_a_row = 0;
    last_ = questions.non_finite();
    warn("step {}: loss {}, gradient norm {}: weights were not changed; {}", step.step, step.loss,
         step.grad_norm, last_);
    return skip();
  }
  if (losses_ && step.tokens > 0) {
    loss_z_ = losses_->z(step.loss);
    grad_norm_z_ = grad_norms_->z(step.grad_norm);
  }
  const bool spikes = is_spike(step);
  if (step.applied == (spikes && config_.action != "warn")) {
    fail("internal error: step {} was {}, against the guard's decision", step.step,
         step.applied ? "applied" : "skipped");
  }
  if (spikes) return spike(step, questions);
  state_.in_a_row = 0;
  state_.spikes_in_a_row = 0;
  record(step);
  return Verdict::fine;
}

// What the run's weights are is still unknown after a step that damaged them.
void StepGuard::pass_over() {
  loss_z_.reset();
  grad_norm_z_.reset();
}

void StepGuard::record(const GuardedStep& step) {
  if (!config_.detects_spikes() || step.tokens == 0) return;
  state_.losses.push_back(step.loss);
  state_.grad_norms.push_back(step.grad_norm);
  keep_newest(state_.losses, static_cast<std::size_t>(config_.spike_window));
  keep_newest(state_.grad_norms, static_cast<std::size_t>(config_.spike_window));
}

std::string StepGuard::describe(const GuardedStep& step) const {
  std::string text;
  const auto add = [&](const char* name, double value, const WindowStatistics& window, double z) {
    if (!(value > window.limit(z))) return;
    text += fmt::format(
        "{}{} {:.6g} is {:.1f} standard deviations above the mean {:.6g} of {} "
        "steps (limit {:.6g})",
        text.empty() ? "" : "; ", name, value, window.z(value), window.mean, state_.losses.size(),
        window.limit(z));
  };
  add("loss", step.loss, *losses_, config_.loss_z);
  add("gradient norm", step.grad_norm, *grad_norms_, config_.grad_norm_z);
  return text;
}

Verdict StepGuard::skip() {
  ++state_.in_a_row;
  if (!non_finite_) ++state_.spikes_in_a_row;
  return state_.in_a_row >= config_.max_skipped_steps ? Verdict::stop : Verdict::skipped;
}

Verdict StepGuard::spike(const GuardedStep& step, const Questions& questions) {
  last_ = describe(step);
  if (config_.action == "warn") {
    warn("step {}: spike: {}", step.step, last_);
    state_.in_a_row = 0;  // nothing was skipped
    if (++state_.spikes_in_a_row >= config_.max_skipped_steps) {
      warn("step {}: the last {} steps were spikes: this level is the usual one from now on",
           step.step, state_.spikes_in_a_row);
      const std::int64_t skipped = state_.skipped_steps, rewinds = state_.rewinds;
      state_ = {.skipped_steps = skipped,
                .rewinds = rewinds,
                .rewound_samples = std::move(state_.rewound_samples)};
    }
    return Verdict::fine;
  }
  if (config_.action == "rewind") {
    if (state_.rewinds >= config_.max_rewinds) {
      skip();
      return Verdict::stop;
    }
    if (questions.newest_checkpoint() >= 0) {
      warn("step {}: spike: {}", step.step, last_);
      return Verdict::rewind;
    }
    last_ += "; there is no checkpoint to go back to yet";
  }
  warn("step {}: spike: {}: weights were not changed", step.step, last_);
  return skip();
}

std::string StepGuard::diagnosis(double lr) const {
  std::string what;
  if (state_.spikes_in_a_row == 0) {
    what = fmt::format(
        "the gradient was not finite in {} steps in a row (loss {}; in the last of "
        "them {})",
        state_.in_a_row, latest_.back().loss, last_);
  } else if (!non_finite_ && config_.action == "rewind" && state_.rewinds >= config_.max_rewinds) {
    what = fmt::format(
        "step {} is a spike again after {} rewinds (guards.max_rewinds): {}; left "
        "out so far: samples {}",
        latest_.back().step, state_.rewinds, last_, text_of(state_.rewound_samples));
  } else {
    what = fmt::format(
        "{} steps in a row were skipped, {} as spikes and {} as not finite; the "
        "last: {}",
        state_.in_a_row, state_.spikes_in_a_row, state_.in_a_row - state_.spikes_in_a_row, last_);
  }
  std::string latest;
  for (const GuardedStep& step : latest_) {
    latest += fmt::format("{}{}: {:.6g} / {:.6g}", latest.empty() ? "" : ", ", step.step, step.loss,
                          step.grad_norm);
  }
  const char* more =
      state_.spikes_in_a_row == 0
          ? ""
          : "; leave the samples of these steps out (data.skip_sample_ranges); or, when such "
            "values are usual, raise guards.loss_z and guards.grad_norm_z";
  return fmt::format(
      "{}. Latest steps (loss / gradient norm): {}. What to do: lower optimizer.lr (now {}), raise "
      "schedule.warmup or resume from an earlier checkpoint (checkpoint.iteration){}",
      what, latest, lr, more);
}

}  // namespace neox
