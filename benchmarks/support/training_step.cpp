#include "benchmarks/support/training_step.h"

#include <algorithm>
#include <chrono>
#include <optional>

#include "core/base/rng.h"
#include "core/config/resolve.h"
#include "core/model/init.h"
#include "core/optim/optimizer.h"
#include "core/parallel/data_parallel.h"
#include "core/parallel/step_runner.h"

namespace neox::bench {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

MicroBatch random_batch(std::int64_t batch, const ModelConfig& model) {
  MicroBatch b;
  const RngKey key = RngKey::for_tensor(1, "tokens");
  const std::int64_t tokens = batch * model.seq_length;
  for (std::int64_t i = 0; i < tokens + 1; ++i) {
    const auto token = static_cast<std::int32_t>(philox_word(key, static_cast<std::uint64_t>(i)) %
                                                 static_cast<std::uint64_t>(model.vocab_size));
    if (i < tokens) b.tokens.push_back(token);
    if (i > 0) b.labels.push_back(token);
  }
  b.loss_mask.assign(b.tokens.size(), 1.0f);
  return b;
}

double median_of(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values.empty() ? 0 : values[values.size() / 2];
}

RunnerOptions runner_options(const TrainingStepProblem& problem) {
  RunnerOptions options;
  options.micro_batch = problem.batch;
  options.seq_length = problem.model.seq_length;
  options.graphs = GraphMode::automatic;  // as in training
  return options;
}

}  // namespace

ModelConfig gpt2_124m(std::int64_t seq) {
  ModelConfig m;
  m.num_layers = 12;
  m.hidden_size = 768;
  m.num_attention_heads = 12;
  m.seq_length = seq;
  m.max_position_embeddings = 1024;
  m.vocab_size = 50257;
  m.pos_emb = PositionEmbedding::learned;
  m.activation = Activation::gelu_tanh;
  resolve_model(m);
  return m;
}

double training_flops_per_token(const ModelConfig& model, bool causal) {
  const double attention = 12.0 * static_cast<double>(model.num_layers) *
                           static_cast<double>(model.hidden_size) *
                           static_cast<double>(model.seq_length);
  return flops_per_token(model, model.seq_length) - (causal ? attention / 2 : 0);
}

struct TrainingStep::State {
  std::unique_ptr<Backend> ops;
  std::unique_ptr<Stream> stream;
  Transformer model;
  MicroBatch data;
  std::optional<Optimizer> optimizer;
  std::optional<StepRunner> runner;
  std::optional<DataParallel> data_parallel;
  double tokens;
  std::int64_t steps_taken = 0;

  explicit State(const TrainingStepProblem& p)
      : ops(make_backend(p.device, {p.deterministic})),
        stream(make_stream(p.device)),
        model(p.model),
        data(random_batch(p.batch, p.model)),
        tokens(static_cast<double>(p.batch * p.model.seq_length)) {
    model.commit(*ops, *stream, p.precision, StoreMode::training);
    optimizer.emplace(model.parameters(), OptimizerConfig{}, *ops, *stream);
    runner.emplace(model, *ops, *stream, PipelinePlace{}, TensorParallel{}, TensorParallel{},
                   runner_options(p));
    data_parallel.emplace(model.parameters(), GradientGroups{}, *ops, *stream);
    initialise_parameters(model.parameters(), model.config(), 1, *ops, *stream);
    stream->synchronize();
  }
};

TrainingStep::TrainingStep(const TrainingStepProblem& problem)
    : state_(std::make_unique<State>(problem)) {}
TrainingStep::~TrainingStep() = default;

TrainingStepTimes TrainingStep::measure(int warm_up, int steps, bool forward_too) {
  State& s = *state_;
  TrainingStepTimes times;
  restart_allocation_peaks();
  std::vector<double> optimizer, forward;
  for (int i = 0; i < steps + warm_up; ++i) {
    if (i == warm_up) times.allocations = allocation_counts().calls;
    const auto begin = Clock::now();
    s.data_parallel->begin_step(1);
    times.loss =
        s.runner->train({&s.data, 1}, 1.0 / s.tokens, s.steps_taken++, *s.data_parallel) / s.tokens;
    s.data_parallel->finish_gradients();
    s.stream->synchronize();
    const double gradients = seconds_since(begin);
    s.optimizer->step(1e-4);
    s.stream->synchronize();
    if (i < warm_up) continue;
    times.seconds.push_back(seconds_since(begin));
    optimizer.push_back(times.seconds.back() - gradients);
  }
  times.allocations = allocation_counts().calls - times.allocations;
  for (int i = 0; forward_too && i < steps + 1; ++i) {
    const auto begin = Clock::now();
    s.runner->evaluate({&s.data, 1}, *s.data_parallel);
    s.stream->synchronize();
    if (i > 0) forward.push_back(seconds_since(begin));
  }
  std::sort(times.seconds.begin(), times.seconds.end());
  times.optimizer_seconds = median_of(optimizer);
  times.forward_seconds = median_of(forward);
  times.peak_bytes = allocation_counts().bytes_peak;
  return times;
}

}  // namespace neox::bench
