// The CUDA engine in whole runs: on a simulated GPU everywhere, and the choice of the device.

#include <cmath>
#include <map>
#include <sstream>

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/app/program_runner.h"

namespace neox::testing {
namespace {

// Losses and gradient norms of all steps.
std::vector<double> curve(const Workspace& workspace, const std::string& folder) {
  std::vector<double> values;
  std::istringstream lines(workspace.read(folder + "/run/metrics.jsonl"));
  for (std::string line; std::getline(lines, line);) {
    const auto json = nlohmann::json::parse(line);
    for (const char* name : {"train/lm_loss", "train/grad_norm"}) {
      if (json.contains(name)) values.push_back(json.at(name));
    }
  }
  return values;
}

class SimulatedGpu : public ::testing::Test {
 protected:
  SimulatedGpu() {
    make_corpus(workspace_);
    workspace_.write("tiny.ini", tiny_config("../corpus_text_document"));
  }
  void SetUp() override {
    const auto probe = workspace_.run(train(1, "--system.device simulated --train.train_iters 1"));
    if (probe.err.find("built without CUDA") != std::string::npos) GTEST_SKIP() << "no CUDA here";
  }
  static std::string train(int ranks, const std::string& options) {
    return mpirun(ranks,
                  "neox_train --config ../tiny.ini --train.train_iters 4 "
                  "--train.eval_interval 0 " +
                      options);
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

TEST_F(SimulatedGpu, TrainsAsTheCpuDoesInEveryLayout) {
  const Layout layouts[] = {
      {"one", 1, ""},
      {"tensor", 2, "--parallel.model_parallel_size 2"},
      {"pipe", 2, "--parallel.pipe_parallel_size 2 --batch.train_micro_batch_size_per_gpu 1"},
      {"zero1", 2, "--parallel.zero_stage 1"},
      {"zero3", 2, "--parallel.zero_stage 3 --parallel.recompute full"},
  };
  workspace_.run_ok(train(1, "--system.device cpu"), "cpu");
  const std::vector<double> want = curve(workspace_, "cpu");
  ASSERT_EQ(want.size(), 8u);
  for (const Layout& layout : layouts) {
    const auto result = workspace_.run_ok(
        train(layout.ranks, std::string("--system.device simulated ") + layout.options),
        layout.name);
    EXPECT_NE(result.err.find("device: simulated:0"), std::string::npos) << result.err;
    const double difference = worst(layout.name, want);
    std::printf("    %-8s %d ranks: worst relative difference of losses and norms %.1e\n",
                layout.name, layout.ranks, difference);
    EXPECT_LE(difference, 1e-5);
  }
}

// Gradients of both engines lie 0.2 to 0.6 % from those of float32; their sums round differently.
TEST_F(SimulatedGpu, TrainsAsTheCpuDoesInBfloat16) {
  const std::string bf16 = "--precision.precision bfloat16 ";
  workspace_.run_ok(train(1, bf16 + "--system.device cpu"), "cpu");
  workspace_.run_ok(train(1, bf16 + "--system.device simulated"), "simulated");
  const double difference = worst("simulated", curve(workspace_, "cpu"));
  std::printf("    worst relative difference of losses and norms %.1e\n", difference);
  EXPECT_LE(difference, 1e-2);
}

// A checkpoint knows nothing of the device that wrote it.
TEST_F(SimulatedGpu, ContinuesTheCpusRunAndTheCpuItsOwn) {
  workspace_.run_ok(train(1, "--system.device cpu --train.train_iters 4"), "cpu");
  workspace_.run_ok(train(1, "--system.device simulated --train.exit_interval 2"), "mixed");
  workspace_.run_ok(train(2, "--system.device cpu --train.exit_interval 3"), "mixed");
  workspace_.run_ok(train(1, "--system.device simulated"), "mixed");
  EXPECT_LE(worst("mixed", curve(workspace_, "cpu")), 1e-5);
  const std::string generate =
      "neox_generate --checkpoint.load run --generate.prompt License --generate.maximum_tokens 12 "
      "--system.device ";
  EXPECT_EQ(workspace_.run_ok(generate + "cpu", "mixed").out,
            workspace_.run_ok(generate + "simulated", "mixed").out);
}

}  // namespace
}  // namespace neox::testing
