#include "core/train/engine.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "comm/activity.h"
#include "comm/dry_run_communicator.h"
#include "comm/host_name.h"
#include "core/base/format.h"
#include "core/base/trace.h"
#include "core/model/init.h"
#include "core/optim/update_rule.h"
#include "core/parallel/layout.h"
#include "core/train/run_state.h"

namespace neox {
namespace {

ShardPlan shard_plan(const Config& config, const Communicator& data_group) {
  ShardPlan plan;
  plan.rank = data_group.rank();
  plan.size = data_group.size();
  plan.zero_stage = static_cast<int>(config.parallel.zero_stage);
  plan.bucket_elements = std::max<std::int64_t>(
      1, static_cast<std::int64_t>(config.parallel.gradient_bucket_mb * 1024 * 1024 / 4));
  return plan;
}

Recompute recompute_mode(const std::string& name) {
  if (name == "none") return Recompute::none;
  return name == "selective" ? Recompute::selective : Recompute::full;
}

// Tensor-parallel ranks talk in the middle of a layer, by threads of the host or by NCCL's.
GraphMode graph_mode(const Config& config, const ParallelLayout& layout) {
  const std::string& word = config.system.cuda_graphs;
  const bool on = word == "on";
  if (layout.tensor > 1) {
    require(!on,
            "system.cuda_graphs = on does not go with tensor parallelism "
            "(parallel.model_parallel_size = {}); use auto",
            layout.tensor);
    return GraphMode::off;
  }
  if (word == "off") return GraphMode::off;
  return on ? GraphMode::on : GraphMode::automatic;
}

RunnerOptions runner_options(const Config& config, const ParallelLayout& layout) {
  RunnerOptions options;
  options.micro_batch = config.batch.train_micro_batch_size_per_gpu;
  options.seq_length = config.model.seq_length;
  options.micro_batches = config.batch.gradient_accumulation_steps;
  options.schedule = schedule_kind(config.parallel.pipeline_schedule);
  options.recompute = recompute_mode(config.parallel.recompute);
  if (config.parallel.recompute == "first_n") {
    options.recompute_layers = static_cast<int>(config.parallel.recompute_layers);
  }
  options.loss_chunk = config.train.cross_entropy_chunk;
  options.dropout_seed = static_cast<std::uint64_t>(config.train.seed_dropout);
  options.graphs = graph_mode(config, layout);
  options.mask_documents = config.data.mask_documents;
  options.reset_positions = config.data.reset_positions;
  return options;
}

// Tensor ranks that hold the same key/value heads.
std::unique_ptr<Communicator> key_value_group(const Config& config, const Topology& topology,
                                              const ModelPartition& partition) {
  const int holders = partition_heads(config.model, partition).key_value_holders;
  return topology.tensor().split(
      [holders](int rank) {
        return SplitPlace{rank / holders, rank};
      },
      "key/value heads");
}

}  // namespace

std::size_t MemoryPlan::total() const {
  return weights + main_weights + gradients + optimizer + gathered_weights + gradient_buffers +
         messages + activations + recompute + scratch + inputs + tables + scalars + host_copies;
}

std::string MemoryPlan::table() const {
  const std::pair<const char*, std::size_t> lines[] = {{"weights", weights},
                                                       {"main weights (f32)", main_weights},
                                                       {"gradients (f32)", gradients},
                                                       {"optimizer state", optimizer},
                                                       {"gathered weights", gathered_weights},
                                                       {"gradients on their way", gradient_buffers},
                                                       {"messages", messages},
                                                       {"activations", activations},
                                                       {"recomputed block", recompute},
                                                       {"temporaries", scratch},
                                                       {"inputs", inputs},
                                                       {"tables", tables},
                                                       {"step scalars", scalars},
                                                       {"host copies", host_copies},
                                                       {"total", total()},
                                                       {"copy for checkpoints", checkpoint_copy}};
  std::string text;
  for (const auto& [name, bytes] : lines) {
    if (bytes > 0) text += fmt::format("  {:<22} {:>12}\n", name, format_bytes(bytes));
  }
  return text;
}

Engine::Engine(Communicator& world, const Config& config, EngineMode mode, Device device)
    : ops_(make_backend(device, {.deterministic = config.train.deterministic,
                                 .tf32 = config.precision.allow_tf32})),
      stream_(make_stream(device)),
      topology_(world, parallel_layout(config.parallel, world.size()),
                gather_hosts(world, host_name())),
      model_(config.model, model_partition(config, topology_.layout(), topology_.coordinates())),
      checkpoint_(config.checkpoint) {
  const ModelPartition& partition = model_.partition();
  const bool dry_run = mode == EngineMode::dry_run;
  if (dry_run) {
    real_ = std::move(ops_);
    auto counting = std::make_unique<DryRunBackend>(real_->device(), *real_);
    counted_ = counting.get();
    ops_ = std::move(counting);
  }
  key_value_ = key_value_group(config, topology_, partition);
  model_.parameters().declare_optimizer_states(optimizer_states(config.optimizer));
  model_.commit(*ops_, *stream_, config.precision.precision, StoreMode::training, dry_run,
                shard_plan(config, topology_.data()));
  optimizer_.emplace(model_.parameters(), config.optimizer, *ops_, *stream_, &world,
                     model_parameters(config.model));
  GradientGroups groups;
  groups.data = &topology_.data();
  groups.tensor = &topology_.tensor();
  groups.key_value = key_value_.get();
  groups.embedding = &topology_.embedding();
  data_parallel_.emplace(model_.parameters(), groups, *ops_, *stream_,
                         config.parallel.gradient_reduce_dtype);

  for (Communicator* group : {key_value_.get(), &topology_.data()}) {
    group->set_purpose(Purpose::gradients);
  }
  for (Communicator* group : {&topology_.pipe_forward(), &topology_.pipe_backward()}) {
    group->set_purpose(Purpose::pipeline);
  }

  PipelinePlace place;
  place.stage = topology_.coordinates().pipe;
  place.stages = topology_.layout().pipe;
  place.forward = &topology_.pipe_forward();
  place.backward = &topology_.pipe_backward();
  Communicator& tensor = topology_.tensor();
  measuring_group_ = make_dry_run_communicator(tensor.rank(), tensor.size());
  runner_.emplace(model_, *ops_, *stream_, place, TensorParallel(tensor, partition.rows_sharded),
                  TensorParallel(*measuring_group_, partition.rows_sharded),
                  runner_options(config, topology_.layout()));
}

void Engine::measure_phases() {
  clock_.emplace(*stream_);
  runner_->set_clock(&*clock_);
}

void Engine::initialise(std::uint64_t seed) {
  initialise_parameters(model_.parameters(), model_.config(), seed, *ops_, *stream_);
}

Engine::StepResult Engine::train_step(std::span<const MicroBatch> batches, double gradient_scale,
                                      std::int64_t step, double lr, const StepLimits& limits) {
  const trace::Range range("step", step + 1);
  const auto enter = [&](Phase phase) {
    if (clock_) clock_->enter(phase);
  };
  if (clock_) clock_->begin_step();
  data_parallel_->begin_step(static_cast<std::int64_t>(batches.size()));
  StepResult result;
  result.loss_sum =
      runner_->train(batches, gradient_scale * limits.loss_scale, step, *data_parallel_);
  // The ranks of a tensor group computed the same losses.
  if (topology_.coordinates().tensor != 0) result.loss_sum = 0.0;
  Activity::set("gradient reduction", step + 1);
  enter(Phase::reduction);
  {
    const trace::Range reduction("gradient reduction");
    data_parallel_->finish_gradients();
  }
  Activity::set("optimizer", step + 1);
  if (on_update_) on_update_();
  enter(Phase::optimizer);
  UpdateResult update;
  {
    const trace::Range optimizer("optimizer");
    update = optimizer_->step(
        lr, {result.loss_sum * gradient_scale, limits.loss, limits.grad_norm, limits.loss_scale});
  }
  enter(Phase::weights);
  data_parallel_->gather_weights();
  if (clock_) clock_->end_step();
  result.loss = update.loss;
  result.grad_norm = update.grad_norm;
  result.applied = update.applied;
  return result;
}

double Engine::evaluate(std::span<const MicroBatch> batches) {
  const double sum = runner_->evaluate(batches, *data_parallel_);
  return topology_.coordinates().tensor == 0 ? sum : 0.0;
}

void Engine::check_replicas(std::int64_t step) {
  Activity::set("replica check", step);
  if (!replica_check_) {
    replica_check_.emplace(model_.parameters(),
                           ReplicaGroups{topology_.world(), topology_.data(), topology_.tensor(),
                                         *key_value_, topology_.embedding()},
                           *ops_, *stream_);
  }
  replica_check_->run(*data_parallel_, step, topology_.hosts());
}

MemoryPlan Engine::memory_plan() const {
  const StoreMemory store = model_.parameters().memory();
  const DataParallelMemory data = data_parallel_->memory();
  const RunnerMemory runner = runner_->memory();
  MemoryPlan plan;
  plan.weights = store.weights;
  plan.main_weights = store.main;
  plan.gradients = store.gradients;
  plan.optimizer = store.optimizer + optimizer_->shared_state_bytes();
  plan.gathered_weights = data.weights;
  plan.gradient_buffers = data.gradients;
  plan.messages = data.communication + runner.messages;
  plan.activations = runner.activations;
  plan.recompute = runner.recompute;
  plan.scratch = runner.scratch;
  plan.inputs = runner.inputs;
  plan.tables = model_.table_bytes();
  plan.scalars = optimizer_->bytes();
  plan.host_copies = runner.host_copies;
  plan.checkpoint_copy = checkpoint_copy_bytes(model_, *optimizer_, checkpoint_);
  return plan;
}

std::vector<const Communicator*> Engine::groups() const {
  const std::vector<Communicator*> named = topology_.groups();
  std::vector<const Communicator*> all(named.begin(), named.end());
  all.push_back(key_value_.get());
  return all;
}

std::vector<GroupTraffic> Engine::traffic() const {
  std::vector<GroupTraffic> all;
  for (const Communicator* group : groups()) {
    all.push_back({group->name(), group->size(), group->traffic()});
  }
  return all;
}

}  // namespace neox
