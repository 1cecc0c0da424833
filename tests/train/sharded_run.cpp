#include "tests/train/sharded_run.h"

#include "core/config/describe.h"
#include "core/config/resolve.h"
#include "core/model/init.h"
#include "core/optim/update_rule.h"

namespace neox::testing {
namespace {

constexpr std::int64_t kSamples = 8;  // per step

}  // namespace

Config sharded_run_config(bool tied, DType compute, const std::string& directory) {
  Config config;
  ModelConfig& m = config.model;
  m.num_layers = 3;
  m.hidden_size = 48;
  m.num_attention_heads = 3;
  m.seq_length = 16;
  m.vocab_size = 90;
  m.make_vocab_size_divisible_by = 2;
  m.no_weight_tying = !tied;
  m.pos_emb = tied ? PositionEmbedding::learned : PositionEmbedding::rotary;
  m.hidden_dropout = 0.1;
  resolve_model(m);
  config.optimizer.gradient_clipping = 0.5;
  config.precision.precision = compute;
  config.checkpoint.save = directory;
  return config;
}

ShardedRun::ShardedRun(Communicator& group, const Config& config, const ShardedLayout& layout)
    : model(config.model),
      group_(group),
      config_(config),
      layout_(layout),
      samples_(kSamples / group.size() / layout.micro_batches),
      ops_(make_backend(Device{})),
      stream_(make_stream(Device{})) {
  ShardPlan plan;
  plan.rank = group.rank();
  plan.size = group.size();
  plan.zero_stage = layout.zero_stage;
  plan.bucket_elements = layout.bucket_elements;
  model.parameters().declare_optimizer_states(optimizer_states(config.optimizer));
  model.commit(*ops_, *stream_, config.precision.precision, StoreMode::training, false, plan);
  ParameterStore& store = model.parameters();
  optimizer = std::make_unique<Optimizer>(store, config.optimizer, *ops_, *stream_, &group);
  RunnerOptions options;
  options.micro_batch = samples_;
  options.seq_length = config.model.seq_length;
  options.loss_chunk = 7;
  options.micro_batches = layout.micro_batches;
  runner_ = std::make_unique<StepRunner>(model, *ops_, *stream_, PipelinePlace{}, TensorParallel{},
                                         TensorParallel{}, options);
  parallel = std::make_unique<DataParallel>(store, GradientGroups{&group}, *ops_, *stream_,
                                            layout.exchange);
}

void ShardedRun::initialise() {
  initialise_parameters(model.parameters(), config_.model, 99, *ops_, *stream_);
}

MicroBatch ShardedRun::micro_batch(std::int64_t index) const {
  MicroBatch batch;
  batch.first_sample = (group_.rank() * layout_.micro_batches + index) * samples_;
  for (std::int64_t s = 0; s < samples_; ++s) {
    for (std::int64_t t = 0; t < config_.model.seq_length; ++t) {
      const std::int64_t x =
          (progress.step * kSamples + batch.first_sample + s) * 7919 + t * 104729;
      batch.tokens.push_back(static_cast<std::int32_t>(x * x % 89));
      batch.labels.push_back(static_cast<std::int32_t>((x + 1) * (x + 3) % 89));
      batch.loss_mask.push_back(t % 5 == 4 ? 0.0f : 1.0f);
    }
  }
  return batch;
}

std::vector<MicroBatch> ShardedRun::micro_batches() const {
  std::vector<MicroBatch> batches;
  for (std::int64_t i = 0; i < layout_.micro_batches; ++i) batches.push_back(micro_batch(i));
  return batches;
}

double ShardedRun::step(double* norm) {
  const double scale = 1.0 / static_cast<double>(kSamples * 13);  // 16 tokens, 3 masked
  LossScaler scaler(config_.precision, progress.loss_scaler);
  scales_.push_back(scaler.scale());
  parallel->begin_step(layout_.micro_batches);
  double loss = runner_->train(micro_batches(), scale * scaler.scale(), progress.step, *parallel);
  parallel->finish_gradients();
  UpdateGuard guard;
  guard.loss_scale = scaler.scale();
  const double gradient_norm = optimizer->step(1e-3, guard).grad_norm;
  scaler.end_step(0.0, gradient_norm);
  if (norm != nullptr) *norm = gradient_norm;
  parallel->gather_weights();
  ++progress.step;
  progress.consumed_samples += kSamples;
  group_.host_all_reduce(std::span(&loss, 1), ReduceOp::sum);
  return loss * scale;
}

double ShardedRun::evaluate() {
  double loss = runner_->evaluate(micro_batches(), *parallel);
  group_.host_all_reduce(std::span(&loss, 1), ReduceOp::sum);
  return loss / static_cast<double>(kSamples * 13);
}

std::string ShardedRun::save() {
  const RunImage image =
      run_image(model, *optimizer, config_, effective_ini(config_, config_), progress);
  return save_checkpoint(group_, config_.checkpoint.save, image.tensors, image.info,
                         save_options(config_.checkpoint))
      .path;
}

void ShardedRun::load() {
  const auto reader = open_newest(group_, config_.checkpoint.save);
  require(reader != nullptr, "no checkpoint in {}", config_.checkpoint.save);
  progress = load_run(*reader, model, optimizer.get(), LoadScope::everything, *ops_, *stream_);
}

}  // namespace neox::testing
