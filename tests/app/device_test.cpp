// The CUDA engine in whole runs against the CPU's: on a simulated GPU everywhere, and on a GPU
// where there is one.

#include <cmath>
#include <map>
#include <sstream>

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/app/program_runner.h"

namespace neox::testing {
namespace {

std::vector<double> metrics(const Workspace& workspace, const std::string& folder,
                            std::initializer_list<const char*> names) {
  std::vector<double> values;
  std::istringstream lines(workspace.read(folder + "/run/metrics.jsonl"));
  for (std::string line; std::getline(lines, line);) {
    const auto json = nlohmann::json::parse(line);
    for (const char* name : names) {
      if (json.contains(name)) values.push_back(json.at(name));
    }
  }
  return values;
}
std::vector<double> losses(const Workspace& workspace, const std::string& folder) {
  return metrics(workspace, folder, {"train/lm_loss"});
}
// Losses and gradient norms of all steps.
std::vector<double> curve(const Workspace& workspace, const std::string& folder) {
  return metrics(workspace, folder, {"train/lm_loss", "train/grad_norm"});
}

// A line that says why neox_train cannot use the device, "" when it can.
std::string refusal(const CommandResult& probe) {
  if (probe.exit_code == 0) return "";
  for (const char* reason : {"built without CUDA", "system.device = cuda, but"}) {
    const std::size_t at = probe.err.find(reason);
    if (at != std::string::npos) return probe.err.substr(at, probe.err.find('\n', at) - at);
  }
  return "";
}

/// The parameter: system.device.
class WholeRun : public ::testing::TestWithParam<std::string> {
 protected:
  WholeRun() {
    make_corpus(workspace_);
    workspace_.write("tiny.ini", tiny_config("../corpus_text_document"));
  }
  void SetUp() override {
    const auto probe = workspace_.run(on_device(1, "--train.train_iters 1"), "probe");
    const std::string reason = refusal(probe);
    if (!reason.empty()) GTEST_SKIP() << reason;
    ASSERT_EQ(probe.exit_code, 0) << probe.err;
    ASSERT_NE(probe.err.find("device: " + GetParam() + ":0"), std::string::npos) << probe.err;
  }
  static std::string train(int ranks, const std::string& options) {
    return mpirun(ranks,
                  "neox_train --config ../tiny.ini --train.train_iters 4 "
                  "--train.eval_interval 0 " +
                      options);
  }
  // Ranks share the device, which NCCL does not let them.
  static std::string on_device(int ranks, const std::string& options) {
    return train(ranks, "--system.device " + GetParam() + " --system.transport mpi " + options);
  }
  double worst(const std::string& folder, const std::vector<double>& want) {
    const std::vector<double> have = curve(workspace_, folder);
    EXPECT_EQ(have.size(), want.size()) << folder;
    double worst = 0;
    for (std::size_t i = 0; i < std::min(have.size(), want.size()); ++i) {
      worst = std::max(worst, std::abs(have[i] - want[i]) / want[i]);
    }
    return worst;
  }
  Workspace workspace_;
};

struct Layout {
  const char* name;
  int ranks;
  const char* options;
};

TEST_P(WholeRun, TrainsAsTheCpuDoesInEveryLayout) {
  const Layout layouts[] = {
      {"one", 1, ""},
      {"tensor", 2, "--parallel.model_parallel_size 2"},
      {"pipe", 2, "--parallel.pipe_parallel_size 2 --batch.train_micro_batch_size_per_gpu 1"},
      {"zero1", 2, "--parallel.zero_stage 1"},
      {"zero3", 2, "--parallel.zero_stage 3 --parallel.recompute full"},
      {"grid", 4, "--parallel.model_parallel_size 2 --parallel.zero_stage 2"},
  };
  workspace_.run_ok(train(1, "--system.device cpu"), "cpu");
  const std::vector<double> want = curve(workspace_, "cpu");
  ASSERT_EQ(want.size(), 8u);
  for (const Layout& layout : layouts) {
    workspace_.run_ok(on_device(layout.ranks, layout.options), layout.name);
    const double difference = worst(layout.name, want);
    std::printf("    %-8s %d ranks: worst relative difference of losses and norms %.1e\n",
                layout.name, layout.ranks, difference);
    EXPECT_LE(difference, 1e-5);
  }
}

// Positions, norms and activations beyond those of the other tests.
TEST_P(WholeRun, TrainsEveryArchitectureAsTheCpuDoes) {
  const Layout models[] = {
      {"alibi", 2,
       "--model.pos_emb alibi --model.embedding_norm true --model.use_qk_layernorm true "
       "--model.activation squared_relu --parallel.model_parallel_size 2"},
      {"scalenorm", 1, "--model.norm scalenorm --model.pos_emb sinusoidal --model.activation mish"},
      {"plain", 2,
       "--model.norm non_parametric_layernorm --model.pos_emb learned --model.opt_pos_emb_offset 2 "
       "--model.activation softsign --parallel.zero_stage 3"},
      {"yarn", 1,
       "--model.norm rmsnorm --model.rope_scaling yarn --model.rope_scaling_factor 4 "
       "--model.use_qk_layernorm true --parallel.recompute selective"},
      {"masked", 2,
       "--model.attention_config window,bigbird --model.sliding_window_width 5 "
       "--model.sparse_different_layout_per_head true --data.mask_documents true "
       "--data.reset_positions true --parallel.pipe_parallel_size 2"},
      {"patterns", 1,
       "--model.attention_config sparse_fixed,local --model.sparse_num_local_blocks 2 "
       "--data.mask_documents true"},
  };
  for (const Layout& model : models) {
    const std::string name = model.name;
    workspace_.run_ok(train(model.ranks, std::string("--system.device cpu ") + model.options),
                      name + "_cpu");
    workspace_.run_ok(on_device(model.ranks, model.options), name);
    const std::vector<double> want = curve(workspace_, name + "_cpu");
    ASSERT_EQ(want.size(), 8u);
    const double difference = worst(name, want);
    std::printf("    %-10s worst relative difference of losses and norms %.1e\n", model.name,
                difference);
    EXPECT_LE(difference, 1e-5) << name;
  }
}

// Gradients of both engines lie 0.2 to 0.6 % from those of float32; their sums round differently.
TEST_P(WholeRun, TrainsAsTheCpuDoesInBfloat16) {
  const std::string bf16 = "--precision.precision bfloat16 ";
  workspace_.run_ok(train(1, bf16 + "--system.device cpu"), "cpu");
  workspace_.run_ok(on_device(1, bf16), "device");
  const double difference = worst("device", curve(workspace_, "cpu"));
  std::printf("    worst relative difference of losses and norms %.1e\n", difference);
  EXPECT_LE(difference, 1e-2);
}

// A checkpoint knows nothing of the device that wrote it.
TEST_P(WholeRun, ContinuesTheCpusRunAndTheCpuItsOwn) {
  workspace_.run_ok(train(1, "--system.device cpu --train.train_iters 4"), "cpu");
  workspace_.run_ok(on_device(1, "--train.exit_interval 2"), "mixed");
  workspace_.run_ok(train(2, "--system.device cpu --train.exit_interval 3"), "mixed");
  workspace_.run_ok(on_device(1, ""), "mixed");
  EXPECT_LE(worst("mixed", curve(workspace_, "cpu")), 1e-5);
  const std::string generate =
      "neox_generate --checkpoint.load run --generate.prompt License --generate.maximum_tokens 12 "
      "--system.device ";
  EXPECT_EQ(workspace_.run_ok(generate + "cpu", "mixed").out,
            workspace_.run_ok(generate + GetParam(), "mixed").out);
}

TEST_P(WholeRun, FollowsTheCpuForFiftySteps) {
  const std::size_t count = GetParam() == "cuda" ? 50 : 10;  // a simulated GPU is slow
  const std::string steps = fmt::format("--train.train_iters {} ", count);
  workspace_.run_ok(train(1, steps + "--system.device cpu"), "cpu");
  workspace_.run_ok(on_device(1, steps), "device");
  const std::vector<double> want = losses(workspace_, "cpu");
  const std::vector<double> have = losses(workspace_, "device");
  ASSERT_EQ(want.size(), count);
  ASSERT_EQ(have.size(), count);
  double difference = 0;
  for (std::size_t i = 0; i < count; ++i) {
    difference = std::max(difference, std::abs(have[i] - want[i]) / want[i]);
  }
  std::printf("    worst relative difference of %zu losses %.1e (loss %.3f to %.3f)\n", count,
              difference, want.front(), want.back());
  EXPECT_LE(difference, 1e-5);
}

// train.deterministic is the default: equal bits from run to run, of losses and of the checkpoint.
TEST_P(WholeRun, RepeatsBitForBit) {
  for (const char* precision : {"fp32", "bfloat16"}) {
    const std::string options =
        std::string("--train.train_iters 2 --precision.precision ") + precision;
    const auto folder = [&](const char* run) { return std::string(run) + "_" + precision; };
    for (const char* run : {"one", "two"}) workspace_.run_ok(on_device(2, options), folder(run));
    const std::vector<double> first = curve(workspace_, folder("one"));
    EXPECT_EQ(first.size(), 4u);
    EXPECT_EQ(first, curve(workspace_, folder("two"))) << precision;
    const std::string generate =
        "neox_generate --checkpoint.load run --generate.prompt License "
        "--generate.maximum_tokens 12 --system.device " +
        GetParam();
    EXPECT_EQ(workspace_.run_ok(generate, folder("one")).out,
              workspace_.run_ok(generate, folder("two")).out);
  }
}

// Whatever is new in a step, from dropout's masks to sharded weights, must reach work that was
// recorded in an earlier one.
TEST_P(WholeRun, RecordedWorkComputesTheSameBits) {
  // Every micro-batch's work has been recorded after two steps.
  const Layout layouts[] = {
      {"one", 1, "--train.train_iters 20 --train.eval_interval 6"},
      {"recompute", 1, "--parallel.recompute full --model.gpt_j_residual false"},
      {"selective", 1, "--parallel.recompute selective --precision.precision bfloat16"},
      {"pipe", 2, "--parallel.pipe_parallel_size 2 --batch.train_micro_batch_size_per_gpu 1"},
      {"zb", 2, "--parallel.pipe_parallel_size 2 --parallel.pipeline_schedule zb-h1"},
      {"zero3", 2, "--parallel.zero_stage 3 --batch.train_micro_batch_size_per_gpu 1"},
      {"alibi", 2,
       "--model.pos_emb alibi --model.embedding_norm true --model.use_qk_layernorm true "
       "--parallel.zero_stage 3"},
      {"scalenorm", 1, "--model.norm scalenorm --parallel.recompute full"},
  };
  for (const auto& [name, ranks, layout] : layouts) {
    const auto run = [&, name = name, ranks = ranks, layout = layout](const char* graphs) {
      const auto options = fmt::format("--system.cuda_graphs {} --profile {}", graphs, layout);
      return workspace_.run_ok(on_device(ranks, options), fmt::format("{}_{}", name, graphs)).err;
    };
    EXPECT_EQ(run("off").find("CUDA graphs of rank 0: "), std::string::npos);
    const std::string said = run("on");
    const std::size_t at = said.find("CUDA graphs of rank 0: ");
    ASSERT_NE(at, std::string::npos) << said;
    int recorded = 0, launched = 0;
    ASSERT_EQ(
        std::sscanf(said.c_str() + at, "CUDA graphs of rank 0: %d recorded, launched %d times",
                    &recorded, &launched),
        2);
    std::printf("    %-10s %d graphs, launched %d times\n", name, recorded, launched);
    std::fflush(stdout);
    EXPECT_GE(recorded, 2);  // forward and backward of a layer
    EXPECT_GE(launched, 2 * recorded);
    const std::vector<double> want = curve(workspace_, fmt::format("{}_off", name));
    EXPECT_GE(want.size(), 8u);
    EXPECT_EQ(curve(workspace_, fmt::format("{}_on", name)), want) << name;
  }
}

TEST_P(WholeRun, SaysWhatTheDevicesMemoryWentTo) {
  const auto run = workspace_.run_ok(on_device(1, "--train.train_iters 2"), "memory");
  EXPECT_NE(run.err.find("in use after the first step ("), std::string::npos) << run.err;
  if (GetParam() == "simulated") {  // no library, no other process: the plan and the kernels' own
    EXPECT_NE(run.err.find(" 0 B for libraries"), std::string::npos) << run.err;
  }
}

// Which of a step's phases took how long, by the device's clock; and the CUDA profiler's window.
TEST_P(WholeRun, MeasuresPhasesOnTheDevice) {
  const auto run =
      workspace_.run_ok(on_device(2,
                                  "--profile --train.train_iters 3 --logging.profile_step_start 2 "
                                  "--logging.nvtx_ranges --parallel.zero_stage 1"),
                        "phases");
  for (const char* text : {"phases of step 1 on the GPU", "phases of step 3 on the GPU", "inputs",
                           "forward", "backward", "reduction", "optimizer", "weights"}) {
    EXPECT_NE(run.err.find(text), std::string::npos) << text << "\n" << run.err;
  }
  const bool cuda = GetParam() == "cuda";
  EXPECT_EQ(run.err.find("the CUDA profiler records steps 2 to 2") != std::string::npos, cuda);
  EXPECT_EQ(run.err.find("simulated:0 has no CUDA profiler") != std::string::npos, !cuda);
}

TEST_P(WholeRun, RefusesGraphsThatCannotBe) {
  const auto tensor = workspace_.run(
      on_device(2, "--parallel.model_parallel_size 2 --system.cuda_graphs on"), "refused");
  EXPECT_EQ(tensor.exit_code, 1);
  EXPECT_NE(tensor.err.find("cuda_graphs = on does not go with tensor parallelism"),
            std::string::npos)
      << tensor.err;
  const auto cpu = workspace_.run(train(1, "--system.device cpu --system.cuda_graphs on"), "cpu");
  EXPECT_EQ(cpu.exit_code, 1);
  EXPECT_NE(cpu.err.find("cuda_graphs = on, but the run computes on cpu"), std::string::npos)
      << cpu.err;
}

INSTANTIATE_TEST_SUITE_P(Gpu, WholeRun, ::testing::Values("simulated", "cuda"),
                         [](const auto& device) { return device.param; });

}  // namespace
}  // namespace neox::testing
