#include "core/train/training_log.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <optional>
#include <vector>

#include "core/base/log.h"
#include "core/train/progress.h"
#include "io/metrics/metric_log.h"

namespace neox {

struct TrainingLog::State {
  State(const Config& config, std::int64_t first_step, double flops, int rank_count)
      : flops_per_token(flops),
        peak_flops(config.logging.peak_theoretical_tflops * 1e12 * rank_count),
        ranks(rank_count),
        total_steps(config.train.train_iters),
        interval(std::max<std::int64_t>(1, config.logging.log_interval)),
        bar(first_step, config.logging.progress) {}

  double flops_per_token;
  double peak_flops;
  int ranks;
  std::int64_t total_steps;
  std::int64_t interval;
  ProgressBar bar;
  std::optional<MetricLog> metrics;
};

namespace {

void create_folder(const char* option, const std::string& folder) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  require(!error, "cannot create {} = {}: {}; choose a directory that you may write to", option,
          folder, error.message());
}

}  // namespace

TrainingLog::TrainingLog(const Config& config, Communicator& group, std::int64_t first_step,
                         double flops_per_token)
    : logging_(config.logging), group_(group) {
  std::string problem;
  try {
    if (group.rank() == 0) {
      state_ = std::make_unique<State>(config, first_step, flops_per_token, group.size());
      if (!logging_.log_dir.empty()) create_folder("logging.log_dir", logging_.log_dir);
      if (!logging_.tensorboard_dir.empty()) {
        create_folder("logging.tensorboard_dir", logging_.tensorboard_dir);
      }
      // Both folders before any file: a folder that can't be written leaves no logs elsewhere.
      if (!logging_.log_dir.empty()) add_log_file(logging_.log_dir + "/train.log");
      open_sinks(first_step);
    } else {
      ProgressBar::clear_before_log_lines();
    }
  } catch (const std::exception& error) {
    problem = error.what();
  }
  agree(group, "opening the logs", problem);
}

void TrainingLog::open_sinks(std::int64_t first_step) {
  state_->metrics.emplace();
  if (!logging_.log_dir.empty()) {
    state_->metrics->add(make_jsonl_sink(logging_.log_dir + "/metrics.jsonl", first_step));
  }
  if (!logging_.tensorboard_dir.empty()) {
    state_->metrics->add(make_tensorboard_sink(logging_.tensorboard_dir, first_step));
  }
}

void TrainingLog::rewind(std::int64_t step) {
  std::string problem;
  try {
    if (state_ != nullptr) open_sinks(step);
  } catch (const std::exception& error) {
    problem = error.what();
  }
  agree(group_, "opening the logs", problem);
}

TrainingLog::~TrainingLog() = default;

void TrainingLog::step(const StepMeasurement& m) {
  if (state_ == nullptr) return;
  State& s = *state_;
  StepReport report;
  report.step = m.step;
  report.total_steps = s.total_steps;
  report.consumed_tokens = m.consumed_tokens;
  report.loss = m.loss;
  report.lr = m.lr;
  report.grad_norm = m.grad_norm;
  report.loss_scale = m.loss_scale;
  report.seconds = m.seconds;
  report.tokens_per_second = static_cast<double>(m.tokens) / m.seconds;
  report.flops_per_second = report.tokens_per_second * s.flops_per_token;
  report.peak_flops_per_second = s.peak_flops;
  s.bar.update(report);
  if (m.step % s.interval == 0 || m.step == s.total_steps) {
    if (s.bar.active()) {
      log_file_only(step_line(report));
    } else {
      log_info("{}", step_line(report));
    }
  }
  const double flops_per_rank = report.flops_per_second / s.ranks;
  std::vector<Metric> values = {{"train/lm_loss", m.loss},
                                {"train/learning_rate", m.lr},
                                {"train/grad_norm", m.grad_norm},
                                {"train/consumed_tokens", double(m.consumed_tokens)},
                                {"runtime/iteration_time", m.seconds},
                                {"runtime/data_wait", m.data_seconds},
                                {"runtime/tokens_per_sec", report.tokens_per_second},
                                {"runtime/flops_per_sec_per_rank", flops_per_rank},
                                {"train/skipped_steps", double(m.skipped_steps)}};
  if (m.loss_z) values.emplace_back("train/lm_loss_z", *m.loss_z);
  if (m.grad_norm_z) values.emplace_back("train/grad_norm_z", *m.grad_norm_z);
  if (m.loss_scale > 0) {
    values.emplace_back("train/loss_scale", m.loss_scale);
    values.emplace_back("train/overflow_steps", double(m.overflow_steps));
  }
  s.metrics->scalars(m.step, values);
}

void TrainingLog::validation(std::int64_t step, double loss) {
  if (state_ == nullptr) return;
  log_info("step {}/{} | validation loss {:.4f} | perplexity {:.2f}", step, state_->total_steps,
           loss, std::exp(loss));
  const std::array<Metric, 2> values = {
      {{"validation/lm_loss", loss}, {"validation/lm_loss_ppl", std::exp(loss)}}};
  state_->metrics->scalars(step, values);
}

void TrainingLog::stragglers(std::int64_t step, const StragglerFindings& found) {
  if (state_ == nullptr) return;
  const std::array<Metric, 2> values = {
      {{"runtime/slowest_over_median", found.slowest_ratio},
       {"runtime/slowest_rank", static_cast<double>(found.slowest_rank)}}};
  state_->metrics->scalars(step, values);
}

void TrainingLog::activity(const std::string& what) {
  if (state_ != nullptr) state_->bar.set_activity(what);
}

}  // namespace neox
