// Tokens per second of a GPT-2-124M training step in one parallel layout, as one JSON line of rank
// 0. Used by benchmarks/scaling.py, which compares layouts.
//
//   mpirun -np N bench_scaling TENSOR PIPE ZERO_STAGE MICRO_BATCH ACCUMULATION SEQ fp32|bfloat16
//   STEPS

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <string>
#include <vector>

#include "comm/mpi.h"
#include "core/config/resolve.h"
#include "core/train/engine.h"

namespace {

using namespace neox;

std::int64_t number(const char* text) {
  return std::stoll(text);
}

Config gpt2_124m(char** argv, int ranks) {
  Config config;
  config.model.num_layers = 12;
  config.model.hidden_size = 768;
  config.model.num_attention_heads = 12;
  config.model.seq_length = number(argv[6]);
  config.model.max_position_embeddings = 1024;
  config.model.vocab_size = 50257;
  config.model.pos_emb = PositionEmbedding::learned;
  config.model.activation = Activation::gelu_tanh;
  config.parallel.model_parallel_size = number(argv[1]);
  config.parallel.pipe_parallel_size = number(argv[2]);
  config.parallel.zero_stage = number(argv[3]);
  config.batch.train_micro_batch_size_per_gpu = number(argv[4]);
  config.batch.gradient_accumulation_steps = number(argv[5]);
  config.precision.precision = std::string(argv[7]) == "bfloat16" ? DType::bf16 : DType::f32;
  config.train.train_iters = number(argv[8]);
  config.data.data_path = "none";
  resolve(config, ranks);
  return config;
}

MicroBatch tokens_of(const Config& config, std::int64_t first_sample) {
  MicroBatch batch;
  const std::int64_t tokens = config.batch.train_micro_batch_size_per_gpu * config.model.seq_length;
  batch.first_sample = first_sample;
  for (std::int64_t i = 0; i <= tokens; ++i) {
    const std::int64_t x = (first_sample * 1024 + i) * 7919 % 50021;
    const auto token = static_cast<std::int32_t>(x * x % 50257);
    if (i < tokens) batch.tokens.push_back(token);
    if (i > 0) batch.labels.push_back(token);
  }
  batch.loss_mask.assign(batch.tokens.size(), 1.0f);
  return batch;
}

int run(char** argv, MpiEnvironment& mpi) {
  const Config config = gpt2_124m(argv, mpi.size());
  Engine engine(mpi.world(), config);
  engine.initialise(1);
  const std::int64_t data_ranks = engine.topology().layout().data;
  const std::int64_t micro_batch = config.batch.train_micro_batch_size_per_gpu;
  std::vector<MicroBatch> batches;
  for (std::int64_t i = 0; i < config.batch.gradient_accumulation_steps; ++i) {
    batches.push_back(
        tokens_of(config, (i * data_ranks + engine.topology().coordinates().data) * micro_batch));
  }
  const auto tokens = static_cast<double>(config.batch.train_batch_size * config.model.seq_length);
  std::vector<double> seconds;
  double loss = 0.0;
  constexpr int kWarmUp = 2;
  for (std::int64_t step = 0; step < config.train.train_iters + kWarmUp; ++step) {
    mpi.world().barrier();
    const auto begin = std::chrono::steady_clock::now();
    loss = engine.train_step(batches, 1.0 / tokens, step, 1e-4).loss_sum / tokens;
    mpi.world().barrier();
    if (step >= kWarmUp) {
      seconds.push_back(
          std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
    }
  }
  mpi.world().host_all_reduce(std::span(&loss, 1), ReduceOp::sum);
  std::sort(seconds.begin(), seconds.end());
  if (mpi.rank() == 0) {
    std::printf("{\"tokens_per_second\": %.2f, \"step_seconds\": %.4f, \"loss\": %.6f}\n",
                tokens / seconds[seconds.size() / 2], seconds[seconds.size() / 2], loss);
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 9) {
    std::fprintf(
        stderr,
        "usage: mpirun -np N bench_scaling TENSOR PIPE ZERO_STAGE MICRO_BATCH ACCUMULATION "
        "SEQ fp32|bfloat16 STEPS\n");
    return 1;
  }
  neox::MpiEnvironment mpi(&argc, &argv);
  try {
    return run(argv, mpi);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "bench_scaling: %s\n", e.what());
    mpi.abort(1);
  }
}
