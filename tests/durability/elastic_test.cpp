// A checkpoint of any layout continues in any other: the same losses, the same samples.
// NEOX_PAIRS=all: every pair of a saving and a loading layout, for every model.

#include <algorithm>
#include <array>
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <sstream>

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/durability/interrupted_run.h"

namespace neox::testing {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kSaved = 4, kLast = 8;
constexpr double kTolerance = 1e-6;

struct Model {
  const char* name;
  const char* options;
};

// The 512 rows of the vocabulary do not divide by 3 ranks unless they are padded.
constexpr std::array<Model, 4> kModels = {{
    {"neox", ""},
    {"gpt2",
     "--model.no_weight_tying false --model.gpt_j_residual false --model.pos_emb learned "
     "--model.activation gelu_tanh --model.make_vocab_size_divisible_by 1"},
    {"llama",
     "--model.norm rmsnorm --model.num_attention_heads 12 --model.num_kv_heads 6 "
     "--model.activation swiglu --model.intermediate_size 48 "
     "--model.make_vocab_size_divisible_by 1 --model.use_bias_in_attn_linear false "
     "--model.use_bias_in_mlp false --model.use_bias_in_norms false"},
    {"bloom",
     "--model.pos_emb alibi --model.embedding_norm true --model.use_qk_layernorm true "
     "--model.no_weight_tying false --model.gpt_j_residual false "
     "--model.activation squared_relu"},
}};

// Steps of 12, 12, 12, 24, ... samples: the checkpoint of step 4 lies in the ramp-up.
constexpr const char* kGrowingBatch =
    "--batch.train_batch_size 36 --batch.rampup_batch_size 12,12,72";

class Elastic : public ::testing::Test {
 protected:
  Elastic() {
    make_corpus(workspace_);
    workspace_.write("run.ini", durable_config(kLast, kSaved, 0));
  }

  void SetUp() override {
    for (const Model& model : kModels) {
      reference_.push_back(run(fmt::format("{}-straight", model.name), twelve_layouts()[0], model));
      ASSERT_EQ(std::ssize(reference_.back()), kLast);
      EXPECT_TRUE(log_samples().empty() || samples_are_continuous(reference_.back()));
    }
  }

  StepRecords run(const std::string& folder, const JobLayout& layout, const Model& model,
                  const std::string& options = "") {
    const std::string command =
        fmt::format("neox_train --config ../run.ini {} {} {} {} {}", kGrowingBatch, model.options,
                    layout.options, options, log_samples());
    const auto result = workspace_.run(mpirun(layout.ranks, command), folder);
    EXPECT_EQ(result.exit_code, 0) << layout.options << "\n" << result.err;
    return read_steps(workspace_.file(folder + "/run/metrics.jsonl"));
  }

  /// Leaves the checkpoint of step 4 in <model>-<layout>/run.
  void save(std::size_t model, std::size_t layout) {
    const std::string folder = fmt::format("{}-{}", kModels[model].name, layout);
    const StepRecords steps =
        run(folder, twelve_layouts()[layout], kModels[model], "--train.exit_interval 4");
    ASSERT_EQ(std::ssize(steps), kSaved);
    compare(steps, 1, model, folder);
  }

  void load(std::size_t model, std::size_t from, std::size_t to) {
    const std::string source = fmt::format("{}-{}", kModels[model].name, from);
    const std::string folder = fmt::format("{}-to-{}", source, to);
    fs::create_directories(workspace_.path() / folder / "run");
    const std::string file = "run/step0000000004.h5";
    fs::copy(workspace_.path() / source / file, workspace_.path() / folder / file);
    const StepRecords steps = run(folder, twelve_other_layouts()[to], kModels[model]);
    ASSERT_EQ(std::ssize(steps), kLast - kSaved) << folder;
    compare(steps, kSaved + 1, model, folder);
    fs::remove_all(workspace_.path() / folder);
    ++pairs_;
  }

  void compare(const StepRecords& steps, std::int64_t first, std::size_t model,
               const std::string& folder) {
    const Comparison c = compare_steps(steps, first, reference_[model]);
    EXPECT_EQ(c.problem, "") << folder;
    EXPECT_EQ(c.steps_with_samples, log_samples().empty() ? 0 : c.steps) << folder;
    EXPECT_LE(c.worst, kTolerance) << folder << ", step " << c.worst_step;
    worst_ = std::max(worst_, c.worst);
  }

  Workspace workspace_;
  std::vector<StepRecords> reference_;
  int pairs_ = 0;
  double worst_ = 0.0;
};

TEST_F(Elastic, EveryLayoutLoadsWhatAnotherSaved) {
  const char* all = std::getenv("NEOX_PAIRS");
  const bool every = all != nullptr && std::string(all) == "all";
  const std::size_t layouts = twelve_layouts().size();
  for (std::size_t model = 0; model < kModels.size(); ++model) {
    for (std::size_t from = 0; from < layouts && !HasFailure(); ++from) {
      // Otherwise each model has three of the layouts, and each layout one loader.
      if (!every && from % kModels.size() != model) continue;
      save(model, from);
      for (std::size_t to = 0; to < layouts; ++to) {
        if (every || to == (5 * from + 3) % layouts) load(model, from, to);
      }
      fmt::print(
          "    {}, saved in layout {}: {} pairs so far, worst loss {:.1e} off (limit {:.0e})\n",
          kModels[model].name, from, pairs_, worst_, kTolerance);
      std::fflush(stdout);
    }
  }
}

}  // namespace
}  // namespace neox::testing
