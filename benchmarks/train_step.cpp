// One training step (forward, backward, AdamW) of GPT-2-124M on random tokens, as one JSON line.
// Used by benchmarks/train_step.py, which measures PyTorch beside it.
//
//   bench_train_step BATCH SEQ fp32|bfloat16 STEPS

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <string>
#include <sys/resource.h>
#include <vector>

#include "core/base/rng.h"
#include "core/config/resolve.h"
#include "core/model/init.h"
#include "core/optim/optimizer.h"
#include "core/parallel/data_parallel.h"
#include "core/parallel/step_runner.h"
#include "kernels/cpu/gemm_ceiling.h"

namespace {

using namespace neox;

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

MicroBatch random_batch(std::int64_t batch, std::int64_t seq) {
  MicroBatch b;
  const RngKey key = RngKey::for_tensor(1, "tokens");
  for (std::int64_t i = 0; i < batch * seq + 1; ++i) {
    const auto token =
        static_cast<std::int32_t>(philox_word(key, static_cast<std::uint64_t>(i)) % 50257);
    if (i < batch * seq) b.tokens.push_back(token);
    if (i > 0) b.labels.push_back(token);
  }
  b.loss_mask.assign(b.tokens.size(), 1.0f);
  return b;
}

// Of attention's seven products, two forward and five backward, over the visible (query, key)
// pairs.
double attention_flops(const ModelConfig& m, std::int64_t batch, std::int64_t seq) {
  const double pairs = 0.5 * static_cast<double>(batch * seq * (seq + 1));
  return 7 * 2 * pairs * static_cast<double>(m.hidden_size * m.num_layers);
}

int run(std::int64_t batch, std::int64_t seq, DType precision, int steps) {
  const auto ops = make_backend(Device{});
  const auto stream = make_stream(Device{});
  Transformer model(gpt2_124m(seq));
  model.commit(*ops, *stream, precision, StoreMode::training);
  initialise_parameters(model.parameters(), model.config(), 1, *ops, *stream);
  Optimizer optimizer(model.parameters(), {}, *ops, *stream);
  RunnerOptions options;
  options.micro_batch = batch;
  options.seq_length = seq;
  StepRunner runner(model, *ops, *stream, {}, {}, {}, options);
  DataParallel data_parallel(model.parameters(), {}, *ops, *stream);
  const MicroBatch data = random_batch(batch, seq);
  const double tokens = static_cast<double>(batch * seq);
  std::vector<double> seconds;
  double loss = 0;
  std::int64_t allocations = 0;
  constexpr int kWarmUp = 2;  // first touch of memory, primitives made, packing decided
  for (int i = 0; i < steps + kWarmUp; ++i) {
    if (i == kWarmUp) allocations = allocation_counts().calls;
    const auto begin = std::chrono::steady_clock::now();
    data_parallel.begin_step(1);
    loss = runner.train({&data, 1}, 1.0 / tokens, i, data_parallel) / tokens;
    data_parallel.finish_gradients();
    optimizer.step(1e-4);
    const double elapsed =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    if (i >= kWarmUp) seconds.push_back(elapsed);
  }
  allocations = allocation_counts().calls - allocations;
  std::sort(seconds.begin(), seconds.end());
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  // The products alone, at this shape, in this process; after the memory was read off.
  GemmCeilingProblem products;
  products.rows = batch * seq;
  products.dtype = precision;
  const GemmCeiling ceiling = measure_gemm_ceiling(products);
  const double with_attention =
      ceiling.plain_seconds * (1 + attention_flops(model.config(), batch, seq) / ceiling.flops);
  std::printf("{\"plain_ceiling\": %.1f, \"packed_ceiling\": %.1f, \"attention_ceiling\": %.1f, ",
              tokens / ceiling.plain_seconds, tokens / ceiling.packed_seconds,
              tokens / with_attention);
  std::printf(
      "\"median_seconds\": %.4f, \"best_seconds\": %.4f, \"loss\": %.5f, "
      "\"peak_rss_bytes\": %ld, \"steady_state_allocations\": %ld}\n",
      seconds[seconds.size() / 2], seconds.front(), loss, usage.ru_maxrss * 1024,
      static_cast<long>(allocations));
  return allocations == 0 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 5) {
    std::fprintf(stderr, "usage: %s BATCH SEQ fp32|bfloat16 STEPS\n", argv[0]);
    return 2;
  }
  const bool bf16 = std::string(argv[3]) == "bfloat16";
  return run(std::stoll(argv[1]), std::stoll(argv[2]), bf16 ? neox::DType::bf16 : neox::DType::f32,
             std::stoi(argv[4]));
}
