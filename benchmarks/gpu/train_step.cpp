// Training steps (forward, backward, AdamW; bf16, nothing recomputed) at the sizes that one GPU
// trains, on random tokens.
//
//   bench_gpu_train_step [--device cuda] [--shape gpt2-xl] [--json FILE] ...     (--help)
//
// "MFU full" counts 6 N + 12 L h s FLOPs a token, "causal" attention's visible half only.

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <string>
#include <string_view>
#include <vector>

#include <boost/program_options.hpp>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "benchmarks/support/training_step.h"
#include "core/base/format.h"
#include "core/config/resolve.h"
#include "core/model/transformer.h"
#include "core/tensor/buffer.h"
#include "kernels/device_choice.h"

namespace {

using namespace neox;
namespace po = boost::program_options;

struct Shape {
  const char* name;
  std::int64_t hidden, layers, heads, seq, batch, vocab;
  bool gpt2;  ///< learned positions, tied embeddings; else as Pythia: rotary, parallel residual
};
// 6.9b has 32 layers: 16 leave room for activations, and for PyTorch's larger state.
constexpr Shape kShapes[] = {
    {"gpt2-xl", 1600, 48, 25, 1024, 8, 50257, true}, {"1.3b", 2048, 24, 16, 2048, 8, 50254, false},
    {"6.9b", 4096, 16, 32, 2048, 4, 50254, false},   {"tiny", 64, 2, 4, 16, 2, 100, false},
    {"tiny-gpt2", 64, 2, 4, 16, 2, 100, true},
};

struct Options {
  std::string device, json;
  std::vector<std::string> shapes;
  std::int64_t layers = 0, batch = 0;
  int steps = 10, warm_up = 3;
  double peak_tflops = 989;
  bool deterministic = true;
};

bool parse(int argc, char** argv, Options& o) {
  po::options_description all("bench_gpu_train_step");
  all.add_options()("help", "this text");
  all.add_options()("device", po::value(&o.device)->default_value("cuda"), "cuda or simulated");
  all.add_options()("shape", po::value(&o.shapes)->composing(),
                    "gpt2-xl, 1.3b, 6.9b, tiny or tiny-gpt2; may be repeated (the first three)");
  all.add_options()("layers", po::value(&o.layers), "other than the shape's");
  all.add_options()("batch", po::value(&o.batch), "sequences of a step, other than the shape's");
  all.add_options()("steps", po::value(&o.steps)->default_value(o.steps), "timed");
  all.add_options()("warm-up", po::value(&o.warm_up)->default_value(o.warm_up), "steps before");
  all.add_options()("peak", po::value(&o.peak_tflops)->default_value(o.peak_tflops),
                    "TFLOP/s of the chip, dense bf16 (H100 and H200 SXM: 989, A100: 312)");
  all.add_options()("deterministic", po::value(&o.deterministic)->default_value(true),
                    "only kernels that repeat bit for bit");
  all.add_options()("json", po::value(&o.json), "write all figures to this file");
  po::variables_map values;
  po::store(po::parse_command_line(argc, argv, all), values);
  po::notify(values);
  if (values.contains("help")) std::cout << all;
  require(o.steps > 0 && o.warm_up > 0, "--steps and --warm-up must be positive");
  if (o.shapes.empty()) o.shapes = {"gpt2-xl", "1.3b", "6.9b"};
  return !values.contains("help");
}

bench::TrainingStepProblem problem_of(const Shape& shape, const Options& o, Device device) {
  ModelConfig m;
  m.num_layers = o.layers > 0 ? o.layers : shape.layers;
  m.hidden_size = shape.hidden;
  m.num_attention_heads = shape.heads;
  m.seq_length = shape.seq;
  m.vocab_size = shape.vocab;
  m.pos_emb = shape.gpt2 ? PositionEmbedding::learned : PositionEmbedding::rotary;
  m.rotary_pct = 0.25;
  m.activation = shape.gpt2 ? Activation::gelu_tanh : Activation::gelu;
  m.gpt_j_residual = m.no_weight_tying = !shape.gpt2;
  resolve_model(m);
  bench::TrainingStepProblem problem;
  problem.model = m;
  problem.batch = o.batch > 0 ? o.batch : shape.batch;
  problem.device = device;
  problem.deterministic = o.deterministic;
  return problem;
}

// The largest of the problem, half its batch, ..., then fewer layers, that leaves room for what the
// libraries allocate in the first step.
std::unique_ptr<bench::TrainingStep> make_fit(bench::TrainingStepProblem& problem) {
  constexpr std::size_t kForLibraries = std::size_t{3} << 30;
  for (;;) {
    try {
      auto training = std::make_unique<bench::TrainingStep>(problem);
      if (problem.device.kind == DeviceKind::cuda) Buffer(kForLibraries, problem.device);
      return training;
    } catch (const Error& error) {
      const bool memory = std::string_view(error.what()).find("out of memory") != std::string::npos;
      if (!memory || (problem.batch == 1 && problem.model.num_layers == 1)) throw;
      fmt::print(stderr, "batch {}, {} layers: {}\n", problem.batch, problem.model.num_layers,
                 error.what());
    }
    if (problem.batch > 1) {
      problem.batch /= 2;
    } else {
      problem.model.num_layers = problem.model.num_layers * 3 / 4;
    }
  }
}

nlohmann::json measure(const Shape& shape, const Options& o, Device device) {
  bench::TrainingStepProblem problem = problem_of(shape, o, device);
  const auto training = make_fit(problem);
  const bench::TrainingStepTimes times = training->measure(o.warm_up, o.steps, true);
  const double tokens = static_cast<double>(problem.batch * shape.seq);
  const double per_second = tokens / times.median();
  const double full = per_second * bench::training_flops_per_token(problem.model, false);
  const double causal = per_second * bench::training_flops_per_token(problem.model, true);
  return {{"shape", shape.name},
          {"gpt2", shape.gpt2},
          {"hidden", shape.hidden},
          {"heads", shape.heads},
          {"layers", problem.model.num_layers},
          {"seq", shape.seq},
          {"batch", problem.batch},
          {"vocab", problem.model.padded_vocab_size()},
          {"parameters", count_parameters(problem.model)},
          {"deterministic", o.deterministic},
          {"device", name_of(device)},
          {"median_seconds", times.median()},
          {"best_seconds", times.seconds.front()},
          {"worst_seconds", times.seconds.back()},
          {"forward_seconds", times.forward_seconds},
          {"optimizer_seconds", times.optimizer_seconds},
          {"tokens_per_second", per_second},
          {"tflops_full", full * 1e-12},
          {"tflops_causal", causal * 1e-12},
          {"mfu_full", full * 1e-12 / o.peak_tflops},
          {"mfu_causal", causal * 1e-12 / o.peak_tflops},
          {"peak_bytes", times.peak_bytes},
          {"steady_state_allocations", times.allocations},
          {"loss", times.loss}};
}

void print_header(const Options& o) {
  fmt::print("training step, bf16, {}; MFU of {} TFLOP/s\n",
             o.deterministic ? "deterministic" : "not deterministic", o.peak_tflops);
  fmt::print("{:<10} {:>6} {:>5} {:>5} {:>9} {:>9} {:>8} {:>8} {:>8} {:>7} {:>7} {:>8} {:>6}\n",
             "shape", "layers", "batch", "seq", "tokens/s", "step ms", "forward", "backward",
             "AdamW", "full", "causal", "peak GB", "allocs");
}

void print_line(const nlohmann::json& r) {
  const double step = r["median_seconds"], forward = r["forward_seconds"],
               optimizer = r["optimizer_seconds"], peak = r["peak_bytes"];
  fmt::print(
      "{:<10} {:>6} {:>5} {:>5} {:>9.0f} {:>9.2f} {:>8.2f} {:>8.2f} {:>8.2f} {:>6.1f}% {:>6.1f}% "
      "{:>8.2f} {:>6}\n",
      r["shape"].get<std::string>(), r["layers"].get<int>(), r["batch"].get<int>(),
      r["seq"].get<int>(), r["tokens_per_second"].get<double>(), step * 1e3, forward * 1e3,
      (step - forward - optimizer) * 1e3, optimizer * 1e3, 100 * r["mfu_full"].get<double>(),
      100 * r["mfu_causal"].get<double>(), peak * 1e-9,
      r["steady_state_allocations"].get<std::int64_t>());
  std::fflush(stdout);
}

int run(int argc, char** argv) {
  Options o;
  if (!parse(argc, argv, o)) return 0;
  const Device device{choose_device_kind(o.device).kind, 0};
  nlohmann::json all = nlohmann::json::array();
  std::int64_t allocations = 0;
  int failures = 0;
  print_header(o);
  for (const std::string& name : o.shapes) {
    const auto* shape = std::find_if(std::begin(kShapes), std::end(kShapes),
                                     [&](const Shape& s) { return s.name == name; });
    require(shape != std::end(kShapes), "no shape is called '{}' (see --help)", name);
    try {
      all.push_back(measure(*shape, o, device));
    } catch (const Error& error) {  // the other shapes are still worth measuring
      fmt::print("{:<10} failed: {}\n", name, error.what());
      ++failures;
      continue;
    }
    print_line(all.back());
    allocations += all.back()["steady_state_allocations"].get<std::int64_t>();
    if (!o.json.empty()) {  // after each: a time limit may end this program
      std::ofstream out(o.json);
      out << all.dump(1) << "\n";
      require(out.good(), "cannot write {}", o.json);
    }
  }
  require(allocations == 0, "{} allocations in timed steps, which must not allocate", allocations);
  return failures == 0 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception& error) {
    fmt::print(stderr, "bench_gpu_train_step: {}\n", error.what());
    return 1;
  }
}
