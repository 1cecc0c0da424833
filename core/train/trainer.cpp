#include "core/train/trainer.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>

#include "comm/activity.h"
#include "comm/agreement.h"
#include "core/base/format.h"
#include "core/base/log.h"
#include "core/optim/finite_check.h"
#include "core/train/checkpoint_policy.h"
#include "core/train/run_setup.h"
#include "core/train/signals.h"
#include "kernels/device_choice.h"

namespace neox {
namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

Trainer::Trainer(Communicator& world, Communicator& node, const Config& config,
                 std::string config_text)
    : time_limit_(time_limit_of(config.train)),
      world_(world),
      config_(config),
      config_text_(std::move(config_text)) {
  check_same_program(world_, config_);
  const Device device = choose_run_device(node);
  if (const auto memory = device_tools(device.kind).memory(device.index)) {
    free_at_start_ = memory->free;
  }
  Activity::set_unlimited("opening the data");  // may build an index of hours
  data_ = open_run_data(config_);
  Activity::set_unlimited("initialising");
  device_world_.emplace(world_, node, device, device_world_options(config_.system));
  engine_.emplace(device_world_->group(), config_, EngineMode::real, device);
  if (!config_.checkpoint.save.empty()) {
    saver_.emplace(world_, *engine_, config_, config_text_);
  }
  start();
  check_input();
  guard_.emplace(config_.guards, progress_.guards, world_.rank() == 0);
  scaler_.emplace(config_.precision, progress_.loss_scaler);
  if (!config_.checkpoint.save.empty()) {
    prepare_checkpoint_directory(world_, config_.checkpoint.save);
  }
  log_ = std::make_unique<TrainingLog>(config_, world_, progress_.step,
                                       flops_per_token(config_.model, config_.model.seq_length));
  if (config_.logging.log_samples) {
    sample_log_.emplace(world_, config_.logging.log_dir, progress_.step);
  }
  print_summary();
  if (config_.checkpoint.no_save_optim && !config_.checkpoint.save.empty()) {
    log_warning(
        "checkpoint.no_save_optim: checkpoints hold weights only; a run that resumes from them "
        "starts with fresh optimizer state");
  }
  if (config_.logging.profile) profiler_.emplace(*engine_, world_);
  const LoggingConfig& l = config_.logging;
  if (l.straggler_interval > 0 && world_.size() > 1 && device.is_cpu()) {
    stragglers_.emplace(*engine_, world_, l.straggler_interval, l.straggler_threshold);
  }
  if (config_.logging.profile_step_start > 0 || config_.logging.nvtx_ranges) {
    window_.emplace(config_.logging, device);
  }
}

Trainer::~Trainer() = default;

Device Trainer::choose_run_device(Communicator& node) const {
  const auto [kind, why_not_cuda] = choose_device_kind(config_.system.device);
  const Device device = choose_device(node, kind);
  const std::array<Fact, 1> facts = {
      {{"device", device.is_cpu() ? "cpu" : "gpu",
        "set system.device = cuda to see why a node has no GPU, or cpu to do without"}}};
  check_equal(world_, facts);
  if (!why_not_cuda.empty()) log_info("computing on the CPU: {}", why_not_cuda);
  return device;
}

// Nodes may have files of their own under the same name.
void Trainer::check_input() const {
  const std::array<Fact, 2> facts = {
      {{"dataset", fingerprint(data_), "give all nodes the same data files"},
       {"checkpoint to continue from", fmt::format("{} step {}", resumed_from_, progress_.step),
        "give all nodes the same checkpoint folder"}}};
  check_equal(world_, facts);
}

void Trainer::start() {
  const CheckpointConfig& c = config_.checkpoint;
  if (c.iteration < 0 && !c.save.empty() && resume_from(c.save, LoadScope::everything)) return;
  const LoadScope scope = c.finetune        ? LoadScope::weights_only
                          : c.no_load_optim ? LoadScope::without_optimizer
                                            : LoadScope::everything;
  const std::string& source = c.load.empty() ? c.save : c.load;
  if (!c.load.empty() || c.iteration >= 0) {
    require(!source.empty(), "checkpoint.iteration = {} needs checkpoint.load or checkpoint.save",
            c.iteration);
    require(resume_from(source, scope),
            "checkpoint.load = {} holds no checkpoint; correct the path, or remove the option to "
            "start from scratch",
            source);
    return;
  }
  engine_->initialise(static_cast<std::uint64_t>(config_.train.seed_init));
}

bool Trainer::resume_from(const std::string& directory, LoadScope scope) {
  const auto load = [&](CheckpointReader& reader) {
    LoadScope loaded = scope;
    if (scope == LoadScope::everything && config_.checkpoint.no_load_optim) {
      const std::string why = has_optimizer_state(reader)
                                  ? other_optimizer(reader, config_.optimizer)
                                  : "holds weights only";
      if (!why.empty()) {
        log_warning("{} {}: the optimizer starts with fresh state", reader.path(), why);
        loaded = LoadScope::without_optimizer;
      }
    }
    progress_ = load_run(reader, engine_->model(), &engine_->optimizer(), loaded, engine_->ops(),
                         engine_->stream());
    if (loaded == LoadScope::everything) reader.verify();  // the rest: weights that master gave
  };
  const auto reader = config_.checkpoint.iteration >= 0
                          ? open_step(world_, directory, config_.checkpoint.iteration, load)
                          : open_newest(world_, directory, load);
  if (reader == nullptr) return false;
  resumed_from_ = reader->path();
  if (saver_ && directory == config_.checkpoint.save) saver_->set_saved(progress_.step);
  log_info("{} {} (step {}, {} samples)",
           scope == LoadScope::weights_only ? "weights taken from" : "resuming from",
           reader->path(), reader->info().step, format_grouped(reader->info().consumed_samples));
  return true;
}

void Trainer::print_summary() const {
  const Topology& topology = engine_->topology();
  const ParallelLayout& layout = topology.layout();
  const DType dtype = engine_->model().parameters().compute_dtype();
  log_info("model: {} parameters, {} layers, hidden {}, {} heads, vocabulary {} (padded {}), {}",
           format_grouped(count_parameters(config_.model)), config_.model.num_layers,
           config_.model.hidden_size, config_.model.num_attention_heads, config_.model.vocab_size,
           config_.model.padded_vocab_size(), name_of(dtype));
  log_info(
      "batch: {} samples = {} data-parallel rank{} x {} micro-batches of {} samples x {} tokens",
      config_.batch.train_batch_size, layout.data, layout.data == 1 ? "" : "s",
      config_.batch.gradient_accumulation_steps, config_.batch.train_micro_batch_size_per_gpu,
      config_.model.seq_length);
  if (const BatchSizes sizes = batch_sizes(config_.batch); sizes.grows()) {
    const auto [start, increment, samples] = sizes.rampup();
    log_info("batch ramp-up: from {} by {} samples; full from step {} on ({} samples consumed)",
             start, increment, sizes.first_full_step() + 1,
             format_grouped(sizes.after(0, sizes.first_full_step())));
  }
  if (scaler_->active()) {
    const PrecisionConfig& p = config_.precision;
    log_info("loss scale: {}{}", scaler_->scale(),
             p.scales_dynamically()
                 ? fmt::format(", doubled after {} steps without overflow", p.loss_scale_window)
                 : ", static");
  }
  if (!engine_->ops().device().is_cpu()) {
    log_info("device: {}; between ranks: {}", name_of(engine_->ops().device()),
             device_world_->description());
  }
  if (world_.size() > 1) {
    log_info("layout: tensor {}{} x data {} (ZeRO {}) x pipe {} ({})\n{}", layout.tensor,
             engine_->model().partition().rows_sharded ? " (rows sharded)" : "", layout.data,
             config_.parallel.zero_stage, layout.pipe, config_.parallel.pipeline_schedule,
             topology.describe());
  }
  const std::string warning = topology.placement_warning();
  if (world_.rank() == 0 && !warning.empty()) log_warning("{}", warning);
  log_info("memory on rank 0:\n{}", engine_->memory_plan().table());
  log_info("data:\n{}", describe(data_));
  if (!engine_->ops().fast(dtype)) {
    log_warning(
        "this {} has no instructions for {} products: they run in f32, slower; consider "
        "precision.precision = fp32",
        engine_->ops().device().is_cpu() ? "CPU" : "GPU", name_of(dtype));
  }
}

Trainer::StepResult Trainer::train_step(const StepBatch& batch, double lr) {
  std::int64_t tokens = batch.loss_tokens;
  Activity::set("batch agreement", progress_.step + 1);
  engine_->topology().data().host_all_reduce(std::span(&tokens, 1), ReduceOp::sum);
  // A batch that is masked as a whole has no loss and no gradient.
  const double scale = tokens > 0 ? 1.0 / static_cast<double>(tokens) : 0.0;
  Engine::StepLimits limits = guard_->limits();
  limits.loss_scale = scaler_->scale();
  const Engine::StepResult mine =
      engine_->train_step(batch.micro_batches, scale, progress_.step, lr, limits);
  const bool job_ends =
      world_.rank() == 0 &&
      time_limit_.reached(unix_seconds(), saver_ ? saver_->longest_save_seconds() : 0.0);
  std::array<double, 4> sums = {
      signals_.received() != 0 ? 1.0 : 0.0, saver_ && saver_->mine_through() ? 1.0 : 0.0,
      saver_ && saver_->mine_wants_retry() ? 1.0 : 0.0, job_ends ? 1.0 : 0.0};
  world_.host_all_reduce(std::span<double>(sums), ReduceOp::sum);
  StepResult result;
  result.grad_norm = mine.grad_norm;
  result.loss = mine.loss;
  result.applied = mine.applied;
  result.stop_requested = sums[0] > 0.0;
  result.save_through = sums[1] == static_cast<double>(world_.size());
  result.save_again = sums[2] > 0.0;
  result.job_ends = sums[3] > 0.0;
  result.tokens = tokens;
  result.loss_scale = scaler_->active() ? limits.loss_scale : 0.0;
  return result;
}

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

BatchLoader Trainer::open_loader() const {
  return open_train_loader(config_, data_, {progress_.consumed_samples, progress_.next_sample},
                           config_.train.train_iters - progress_.step,
                           progress_.guards.rewound_samples, engine_->topology().data());
}

double Trainer::evaluate() {
  log_->activity("validating");
  const std::int64_t steps = config_.train.eval_iters;
  BatchLoader loader = open_valid_loader(config_, data_, engine_->topology().data());
  std::array<double, 2> sums = {0.0, 0.0};
  for (std::int64_t i = 0; i < steps; ++i) {
    Activity::set("validation", progress_.step, i);
    const StepBatch& batch = loader.next();
    sums[0] += engine_->evaluate(batch.micro_batches);
    // One rank of each model counts its tokens.
    const Coordinates& at = engine_->topology().coordinates();
    if (at.tensor == 0 && at.pipe == 0) sums[1] += static_cast<double>(batch.loss_tokens);
  }
  world_.host_all_reduce(std::span<double>(sums), ReduceOp::sum);
  log_->activity("");
  return sums[1] > 0.0 ? sums[0] / sums[1] : 0.0;
}

void Trainer::save() {
  if (!saver_) return;
  if (guard_->non_finite()) {
    log_warning("step {}: no checkpoint is written while loss or gradient are not finite",
                progress_.step);
    return;
  }
  saver_->begin(progress_);
  log_->activity("");
}

void Trainer::save_and_wait() {
  if (!saver_) return;
  if (guard_->non_finite()) {
    save();
    saver_->drain();
  } else {
    saver_->finish(progress_);
  }
  saver_->finish_commands();
}

// Nothing is given back during a run, so this is its peak, but for a first validation's workspaces.
void Trainer::report_device_memory() {
  const Device device = engine_->ops().device();
  const auto memory = device_tools(device.kind).memory(device.index);
  if (!memory) return;
  engine_->stream().synchronize();
  const MemoryPlan plan = engine_->memory_plan();
  const std::size_t planned = plan.total() - plan.host_copies;
  const std::size_t used = free_at_start_ - std::min(free_at_start_, memory->free);
  const auto backend = static_cast<std::size_t>(allocation_counts(MemoryOwner::backend).bytes_live);
  const std::size_t rest = used - std::min(used, planned + backend);
  log_info(
      "memory of {}: {} in use after the first step ({} planned, {} for workspaces and staging, {} "
      "for libraries, graphs and other processes); {} of {} are free",
      name_of(device), format_bytes(used), format_bytes(planned), format_bytes(backend),
      format_bytes(rest), format_bytes(memory->free), format_bytes(memory->total));
}

StopReason Trainer::run() {
  const StopReason reason = run_steps();
  if (profiler_) profiler_->report();
  return reason;
}

StopReason Trainer::run_steps() {
  const std::int64_t last = config_.train.train_iters;
  const LrSchedule schedule(config_.schedule, config_.optimizer.lr, last);
  if (progress_.step == 0) {
    if (data_.valid) log_->validation(0, evaluate());
    if (checkpoint_due(config_.checkpoint, 0)) save();
  }
  if (progress_.step >= last) {
    log_info("nothing to do: the run stands at step {} of {}", progress_.step, last);
    if (saver_) saver_->drain();  // the initial state may be under way
    return StopReason::finished;
  }
  first_step_ = progress_.step;
  BatchLoader loader = open_loader();
  while (progress_.step < last) {
    const StepResult result = next_step(loader, schedule);
    if (!check_step(result)) {
      loader = open_loader();
      continue;
    }
    report_step(result);
    if (const auto reason = between_steps(result)) return *reason;
  }
  save_and_wait();
  require(
      !guard_->non_finite(),
      "training ended with a loss or gradient that is not finite; the last {} of {} steps changed "
      "nothing; lower optimizer.lr (now {}) and resume from an earlier checkpoint",
      progress_.guards.in_a_row, last, config_.optimizer.lr);
  return StopReason::finished;
}

Trainer::StepResult Trainer::next_step(BatchLoader& loader, const LrSchedule& schedule) {
  const auto begin = std::chrono::steady_clock::now();
  if (profiler_) profiler_->begin_step();
  if (window_) window_->begin_step(progress_.step + 1);
  if (stragglers_) stragglers_->begin_step();
  Activity::set("reading data", progress_.step + 1);
  const StepBatch& batch = loader.next();
  const double waited = seconds_since(begin);
  const double lr = schedule.at(progress_.schedule_steps());
  StepResult result = train_step(batch, lr);
  result.lr = lr;
  result.waited = waited;
  if (stragglers_) result.stragglers = stragglers_->end_step(progress_.step + 1, waited);
  result.all_tokens = batch.samples * config_.model.seq_length;
  ++progress_.step;
  progress_.consumed_samples += batch.samples;
  progress_.next_sample = batch.next_sample;
  progress_.consumed_tokens += result.all_tokens;
  if (sample_log_) sample_log_->add(progress_.step, batch, engine_->topology().data());
  result.seconds = seconds_since(begin);
  return result;
}

void Trainer::report_step(const StepResult& result) {
  log_->step({progress_.step, result.loss, result.grad_norm, result.lr, result.seconds,
              result.waited, result.all_tokens, progress_.consumed_tokens,
              progress_.guards.skipped_steps, guard_->loss_z(), guard_->grad_norm_z(),
              result.loss_scale, progress_.loss_scaler.overflow_steps});
  if (profiler_) profiler_->end_step(progress_.step, result.waited);
  if (result.stragglers) log_->stragglers(progress_.step, *result.stragglers);
  if (window_) window_->end_step(progress_.step, engine_->stream());
  if (progress_.step == first_step_ + 1) report_device_memory();
}

std::optional<StopReason> Trainer::between_steps(const StepResult& result) {
  const std::int64_t step = progress_.step, last = config_.train.train_iters;
  const auto due = [&](std::int64_t interval) { return interval > 0 && step % interval == 0; };
  const bool finished = step == last;
  if (due(config_.parallel.replica_check_interval)) engine_->check_replicas(step);
  if (!finished && (result.stop_requested || result.job_ends)) {
    log_info("{}: saving at step {} and leaving",
             result.stop_requested ? "stop signal received" : "the job ends soon", step);
    save_and_wait();
    return result.stop_requested ? StopReason::signal : StopReason::job_end;
  }
  if (saver_) {
    saver_->between_steps(progress_, result.save_through,
                          result.save_again && !guard_->non_finite());
  }
  if (checkpoint_due(config_.checkpoint, step)) save();
  if (data_.valid && (finished || due(config_.train.eval_interval))) {
    log_->validation(step, evaluate());
  }
  if (!finished && due(config_.train.exit_interval)) {
    log_info("exit_interval: saving at step {} and leaving", step);
    save_and_wait();
    return StopReason::exit_interval;
  }
  return std::nullopt;
}

}  // namespace neox
