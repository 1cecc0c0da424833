// Every operator at the sizes of a training step on one GPU (bf16, tensors larger than its L2
// cache), against two ceilings measured in the same run: copying device memory, and a large matrix
// product. Attention by our kernels and by cuDNN side by side.
//
//   bench_gpu_operators [--device cuda] [--json FILE] [--full FILE] [text]
//
// Prints one line for each operator: its least share of the ceiling; --full has every case.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include <boost/program_options.hpp>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "core/tensor/buffer.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/cudnn_attention.h"
#include "kernels/device_choice.h"
#include "kernels/dry_run/dry_run_backend.h"
#include "tests/kernels/op_cases.h"

namespace {

using namespace neox;
using namespace neox::testing;
namespace po = boost::program_options;

struct Options {
  std::string device, json, full, text;
};

bool parse(int argc, char** argv, Options& o) {
  po::options_description all("bench_gpu_operators [text]: operators whose name contains the text");
  all.add_options()("help", "this text");
  all.add_options()("device", po::value(&o.device)->default_value("cuda"),
                    "cuda, or simulated (tiny sizes)");
  all.add_options()("json", po::value(&o.json), "write all figures to this file");
  all.add_options()("full", po::value(&o.full), "write the table of all cases (markdown)");
  all.add_options()("text", po::value(&o.text)->default_value(""), "also without --text");
  po::positional_options_description first;
  first.add("text", 1);
  po::variables_map values;
  po::store(po::command_line_parser(argc, argv).options(all).positional(first).run(), values);
  po::notify(values);
  if (values.contains("help")) fmt::print("{}", (std::ostringstream() << all).str());
  return !values.contains("help");
}

/// Attention by one of the engine's two implementations, and nothing else.
template <class Kernels>
class AttentionOnly final : public DryRunBackend {
 public:
  template <class... Args>
  explicit AttentionOnly(const Backend& engine, Args... args)
      : DryRunBackend(engine.device(), engine), kernels_(engine.device(), args...) {}

  void attention(Stream& s, const AttentionProblem& problem, ConstHeads q, ConstHeads k,
                 ConstHeads v, Tensor out, Tensor lse) const override {
    kernels_.attention(s, problem, q, k, v, out, lse);
  }
  void attention_backward(Stream& s, const AttentionProblem& problem, ConstHeads q, ConstHeads k,
                          ConstHeads v, ConstTensor out, ConstTensor lse, ConstTensor dout,
                          Heads dq, Heads dk, Heads dv, Tensor workspace) const override {
    if constexpr (std::is_same_v<Kernels, CudaAttention>) {
      kernels_.attention_backward(s, problem, q, k, v, out, lse, dout, dq, dk, dv, workspace);
    } else {
      kernels_.attention_backward(s, problem, q, k, v, out, lse, dout, dq, dk, dv);
    }
  }

 private:
  Kernels kernels_;
};

struct Ceilings {
  double copy = 0;     ///< bytes/s, read and written
  double product = 0;  ///< FLOP/s
};

/// Median seconds of one call, of some rows of calls that run ahead of the device.
template <class Work>
double time(Stream& stream, int rows, int calls, Work&& work) {
  using Clock = std::chrono::steady_clock;
  std::vector<double> seconds;
  for (int row = -1; row < rows; ++row) {  // the first warms up
    const auto begin = Clock::now();
    for (int i = 0; i < calls; ++i) work();
    stream.synchronize();
    const double elapsed = std::chrono::duration<double>(Clock::now() - begin).count();
    if (row >= 0) seconds.push_back(elapsed / calls);
  }
  std::sort(seconds.begin(), seconds.end());
  return seconds[seconds.size() / 2];
}

void fill_random(Tensor t, std::uint64_t seed, Stream& stream) {
  OwnedTensor host(t.shape, t.dtype);
  const Array table = normal_values(8191, seed);
  const auto values = host.tensor.span<bf16>();
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = bf16(static_cast<float>(table[i % table.size()]));
  }
  copy(stream, host, t);
  stream.synchronize();
}

Ceilings measure_ceilings(const Backend& ops, bool tiny) {
  const auto stream = make_stream(ops.device());
  const int rows = tiny ? 1 : 7, calls = tiny ? 1 : 10;
  Ceilings ceilings;
  {
    const std::int64_t n = tiny ? 1 << 10 : std::int64_t{1} << 30;
    const OwnedTensor from({n}, DType::bf16, ops.device()), to({n}, DType::bf16, ops.device());
    fill_random(from, 1, *stream);
    const double seconds = time(*stream, rows, calls, [&] { copy(*stream, from, to); });
    ceilings.copy = 4.0 * static_cast<double>(n) / seconds;
  }
  const std::int64_t n = tiny ? 32 : 8192;
  const OwnedTensor x({n, n}, DType::bf16, ops.device()), w({n, n}, DType::bf16, ops.device()),
      y({n, n}, DType::bf16, ops.device());
  fill_random(x, 2, *stream);
  fill_random(w, 3, *stream);
  const double seconds = time(*stream, rows, calls, [&] { ops.linear(*stream, x, w, {}, y); });
  const auto side = static_cast<double>(n);
  ceilings.product = 2 * side * side * side / seconds;
  return ceilings;
}

/// One direction of one case.
struct Line {
  std::string name, variant, shape;
  bool backward;
  Speed speed;
  double share;  ///< of the ceiling
  std::string rate() const {
    return speed.flops > 0 ? fmt::format("{:.1f} TFLOP/s", speed.flops / speed.seconds * 1e-12)
                           : fmt::format("{:.0f} GB/s", speed.bytes / speed.seconds * 1e-9);
  }
};

class Table {
 public:
  Table(const Ceilings& ceilings, const Options& options)
      : ceilings_(ceilings), options_(options) {}

  void add(const Backend& ops, const OpCase& test, const std::string& name,
           const std::string& shape) {
    for (const bool backward : {false, true}) {
      if (backward && !test.backward) continue;
      Line line{name,
                std::string(name_of(test.dtype)) + " " + test.variant,
                shape,
                backward,
                measure(ops, test, backward),
                0};
      line.share = line.speed.flops > 0 ? line.speed.flops / line.speed.seconds / ceilings_.product
                                        : line.speed.bytes / line.speed.seconds / ceilings_.copy;
      lines_.push_back(std::move(line));
    }
    write();  // after each: a time limit may end this program
  }

  int failures() const { return failures_; }
  void print_worst() const {
    std::map<std::pair<std::string, bool>, const Line*> worst;
    for (const Line& line : lines_) {
      const Line*& least = worst[{line.name, line.backward}];
      if (least == nullptr || line.share < least->share) least = &line;
    }
    fmt::print("{:<18} {:<8} {:>9} {:>15} {:>8}  {}\n", "operator", "", "ms", "rate", "share",
               "the case with the least share");
    for (const auto& [key, line] : worst) {
      fmt::print("{:<18} {:<8} {:>9.3f} {:>15} {:>7.1f}%  {} {}\n", line->name,
                 line->backward ? "backward" : "forward", line->speed.seconds * 1e3, line->rate(),
                 100 * line->share, line->shape, line->variant);
    }
  }

 private:
  void write() const {
    if (!options_.json.empty()) {
      nlohmann::json cases = nlohmann::json::array();
      for (const Line& line : lines_) {
        cases.push_back({{"operator", line.name},
                         {"variant", line.variant},
                         {"shape", line.shape},
                         {"direction", line.backward ? "backward" : "forward"},
                         {"seconds", line.speed.seconds},
                         {"bytes", line.speed.bytes},
                         {"flops", line.speed.flops},
                         {"share_of_ceiling", line.share}});
      }
      const nlohmann::json all = {{"copy_bytes_per_second", ceilings_.copy},
                                  {"product_flops_per_second", ceilings_.product},
                                  {"cases", cases}};
      save(options_.json, all.dump(1) + "\n");
    }
    if (options_.full.empty()) return;
    std::string text = fmt::format(
        "Ceilings: copy {:.0f} GB/s, matrix product {:.1f} TFLOP/s.\n\n"
        "| operator | case | direction | ms | rate | of the ceiling |\n|---|---|---|---|---|---|\n",
        ceilings_.copy * 1e-9, ceilings_.product * 1e-12);
    for (const Line& line : lines_) {
      text += fmt::format("| {} | {} {} | {} | {:.4f} | {} | {:.1f}% |\n", line.name, line.shape,
                          line.variant, line.backward ? "backward" : "forward",
                          line.speed.seconds * 1e3, line.rate(), 100 * line.share);
    }
    save(options_.full, text);
  }
  static void save(const std::string& path, const std::string& text) {
    std::ofstream out(path);
    out << text;
    out.flush();
    require(out.good(), "cannot write {}", path);
  }

  Ceilings ceilings_;
  const Options& options_;
  std::vector<Line> lines_;
  int failures_ = 0;
};

struct NamedShape {
  const char* name;
  StepShape shape;
};

std::vector<NamedShape> shapes(bool tiny) {
  if (tiny) {
    StepShape s;
    s.batch = 2, s.seq = 8, s.heads = 2, s.head_dim = 16;
    s.loss_rows = 8, s.vocab = 128, s.valid_vocab = 101, s.parameters = 1000;
    return {{"tiny", s}};
  }
  StepShape small, large;  // activations of 64 MiB
  small.batch = 8, small.seq = 2048, small.heads = 16, small.head_dim = 128;
  large.batch = 4, large.seq = 2048, large.heads = 32, large.head_dim = 128;
  small.parameters = large.parameters = std::int64_t{256} << 20;
  return {{"h2048", small}, {"h4096", large}};
}

void measure_attention(const Backend& ops, const OpCase& test, const char* shape, Table& table) {
  table.add(AttentionOnly<CudaAttention>(ops), test, "attention, own", shape);
  const AttentionOnly<CudnnAttention> cudnn(ops, true), any_order(ops, false);
  std::string why;
  if (is_supported(cudnn, test, &why)) table.add(cudnn, test, "attention, cuDNN", shape);
  if (is_supported(any_order, test, &why)) {
    table.add(any_order, test, "attention, cuDNN*", shape);
  } else if (ops.device().kind == DeviceKind::cuda) {
    fmt::print("attention by cuDNN, {} {}: {}\n", shape, test.variant, why);
  }
}

int run(int argc, char** argv) {
  Options options;
  if (!parse(argc, argv, options)) return 0;
  const DeviceKind kind = choose_device_kind(options.device).kind;
  require(kind != DeviceKind::cpu, "--device must be cuda or simulated (bench_operators: the CPU)");
  const bool tiny = kind == DeviceKind::simulated;
  const auto ops = make_backend({kind, 0});
  const Ceilings ceilings = measure_ceilings(*ops, tiny);
  Table table(ceilings, options);
  for (const auto& [name, shape] : shapes(tiny)) {
    std::vector<OpCase> cases = step_cases(DType::bf16, shape);
    for (OpCase& test : optimizer_step_cases(DType::f32, shape)) {
      if (test.name == "square_sum") cases.push_back(std::move(test));  // has no other dtype
    }
    for (const OpCase& test : cases) {
      if (test.name.find(options.text) == std::string::npos) continue;
      if (test.name == "attention") {
        measure_attention(*ops, test, name, table);
      } else {
        table.add(*ops, test, test.name, name);
      }
    }
  }
  table.print_worst();
  fmt::print("ceilings: copy {:.0f} GB/s, matrix product of bf16 {:.1f} TFLOP/s{}\n",
             ceilings.copy * 1e-9, ceilings.product * 1e-12,
             tiny ? "" : "; cuDNN*: not deterministic");
  return table.failures() == 0 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception& error) {
    fmt::print(stderr, "bench_gpu_operators: {}\n", error.what());
    return 1;
  }
}
