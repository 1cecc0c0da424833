// One training step (forward, backward, AdamW) of GPT-2-124M on random tokens, as one JSON line.
// Used by benchmarks/train_step.py, which measures PyTorch beside it.
//
//   bench_train_step BATCH SEQ fp32|bfloat16 STEPS

#include <cstdio>
#include <string>
#include <sys/resource.h>

#include "benchmarks/support/training_step.h"
#include "kernels/cpu/gemm_ceiling.h"

namespace {

using namespace neox;

// Of attention's seven products, two forward and five backward, over the visible (query, key)
// pairs.
double attention_flops(const ModelConfig& m, std::int64_t batch, std::int64_t seq) {
  const double pairs = 0.5 * static_cast<double>(batch * seq * (seq + 1));
  return 7 * 2 * pairs * static_cast<double>(m.hidden_size * m.num_layers);
}

int run(std::int64_t batch, std::int64_t seq, DType precision, int steps) {
  bench::TrainingStepProblem problem;
  problem.model = bench::gpt2_124m(seq);
  problem.batch = batch;
  problem.precision = precision;
  bench::TrainingStep training(problem);
  constexpr int kWarmUp = 2;  // first touch of memory, primitives made, packing decided
  const bench::TrainingStepTimes times = training.measure(kWarmUp, steps);
  const double tokens = static_cast<double>(batch * seq);
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  // The products alone, at this shape, in this process; after the memory was read off.
  GemmCeilingProblem products;
  products.rows = batch * seq;
  products.dtype = precision;
  const GemmCeiling ceiling = measure_gemm_ceiling(products);
  const double with_attention =
      ceiling.plain_seconds * (1 + attention_flops(problem.model, batch, seq) / ceiling.flops);
  std::printf("{\"plain_ceiling\": %.1f, \"packed_ceiling\": %.1f, \"attention_ceiling\": %.1f, ",
              tokens / ceiling.plain_seconds, tokens / ceiling.packed_seconds,
              tokens / with_attention);
  std::printf(
      "\"median_seconds\": %.4f, \"best_seconds\": %.4f, \"loss\": %.5f, "
      "\"peak_rss_bytes\": %ld, \"steady_state_allocations\": %ld}\n",
      times.median(), times.seconds.front(), times.loss, usage.ru_maxrss * 1024,
      static_cast<long>(times.allocations));
  return times.allocations == 0 ? 0 : 1;
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
