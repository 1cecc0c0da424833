// Training in fp16 in every kind of layout: the losses of one rank, and the same history of the
// loss scale.

#include <cstdio>
#include <map>

#include <gtest/gtest.h>

#include "comm/mpi.h"
#include "tests/train/layout_run.h"

namespace neox::testing {
namespace {

constexpr int kSteps = 14;

// Starts too high, and grows into an overflow again and again.
RunSize fp16() {
  RunSize size;
  size.precision.precision = DType::f16;
  size.precision.initial_scale_power = 26;
  size.precision.loss_scale_window = 3;
  return size;
}

struct Case {
  Layout layout;
  DType exchange = DType::f32;
};

Layout layout(Family family, std::int64_t tensor, std::int64_t pipe, std::int64_t zero,
              std::int64_t micro_batch, bool rows_sharded = true, const char* schedule = "1f1b",
              const char* recompute = "none") {
  return {family, tensor,      tensor > 1 && rows_sharded,
          pipe,   schedule,    4 / tensor / pipe,
          zero,   micro_batch, recompute};
}

std::vector<Case> cases() {
  return {
      {layout(Family::neox, 4, 1, 0, 4)},
      {layout(Family::neox, 4, 1, 0, 4, false)},
      {layout(Family::neox, 1, 4, 0, 2)},
      {layout(Family::neox, 2, 2, 0, 3, true, "zb-h1")},
      {layout(Family::neox, 2, 2, 0, 3, true, "1f1b", "full")},
      {layout(Family::neox, 1, 1, 0, 3)},
      {layout(Family::neox, 1, 1, 1, 3)},
      {layout(Family::neox, 1, 1, 2, 1)},
      {layout(Family::neox, 1, 1, 3, 1), DType::bf16},
      {layout(Family::gpt2, 2, 1, 3, 3)},
      {layout(Family::gpt2, 1, 2, 2, 3, true, "gpipe")},
      {layout(Family::llama, 2, 2, 0, 2)},
      {layout(Family::llama, 2, 1, 1, 2)},
  };
}

TEST(Fp16Layouts, FollowOneRankAndItsLossScale) {
  const auto world = make_world_communicator();
  std::map<Family, Reference> references;
  for (const Family family : {Family::neox, Family::gpt2, Family::llama}) {
    const int root = static_cast<int>(family);
    Reference mine;
    if (world->rank() == root) mine = single_rank_reference(family, kSteps, fp16());
    references[family] = broadcast(*world, mine, root);
  }
  for (const auto& [where, exchange] : cases()) {
    RunSize size = fp16();
    size.exchange = exchange;
    LayoutRun run(*world, where, size);
    run.train(kSteps);
    const Reference& reference = references.at(where.family);
    const Difference difference = run.difference(reference);
    if (world->rank() == 0) {
      std::printf("    %s, gradients in %s: loss %.1e, norm %.1e, weight %.1e, %d overflows\n",
                  where.describe().c_str(), std::string(neox::name_of(exchange)).c_str(),
                  difference.loss, difference.norm, difference.weight,
                  static_cast<int>(run.scaler_state().overflow_steps));
    }
    EXPECT_EQ(run.scales(), reference.scales) << where.describe();
    EXPECT_LE(difference.loss, 5e-5) << where.describe();
    EXPECT_LE(difference.norm, 2e-3) << where.describe();
    // The history that is compared has all there is in it.
    EXPECT_GE(run.scaler_state().overflow_steps, 5);
    EXPECT_LE(run.scaler_state().overflow_steps, kSteps - 5);
  }
}

// AdamW hardly sees a factor of its gradients, so in f32, where a power of two rounds nothing, the
// bits must be the same with and without a scale.
TEST(Fp16Layouts, TheScaleIsTakenAwayOnEveryRank) {
  const auto world = make_world_communicator();
  for (const Layout& where :
       {layout(Family::neox, 4, 1, 0, 4), layout(Family::llama, 1, 4, 0, 2),
        layout(Family::gpt2, 2, 2, 0, 3), layout(Family::neox, 1, 1, 0, 3),
        layout(Family::gpt2, 1, 1, 3, 1), layout(Family::llama, 2, 1, 2, 3)}) {
    const auto trained = [&](double loss_scale) {
      RunSize size;
      size.loss_scale = loss_scale;
      LayoutRun run(*world, where, size);
      run.train(3);
      return run.reference();
    };
    const Reference plain = trained(1.0), scaled = trained(4096.0);
    EXPECT_EQ(plain.losses, scaled.losses) << where.describe();
    EXPECT_EQ(plain.norms, scaled.norms) << where.describe();
    EXPECT_TRUE(plain.weights == scaled.weights) << where.describe();
  }
}

// Messages of f16 overflow earlier than the layers do: at a scale that suits both, runs are alike.
TEST(Fp16Layouts, GradientsMayTravelInF16) {
  const auto world = make_world_communicator();
  RunSize size = fp16();
  size.precision.initial_scale_power = 10;
  size.precision.loss_scale_window = 1000;
  Reference mine;
  if (world->rank() == 0) mine = single_rank_reference(Family::neox, 8, size);
  const Reference reference = broadcast(*world, mine, 0);
  size.exchange = DType::f16;
  for (const Layout& where : {layout(Family::neox, 1, 1, 0, 3), layout(Family::neox, 1, 1, 1, 1),
                              layout(Family::neox, 2, 1, 2, 3), layout(Family::neox, 1, 2, 3, 1)}) {
    LayoutRun run(*world, where, size);
    run.train(8);
    const Difference difference = run.difference(reference);
    if (world->rank() == 0) {
      std::printf("    %s: loss %.1e, norm %.1e\n", where.describe().c_str(), difference.loss,
                  difference.norm);
    }
    EXPECT_EQ(run.scales(), reference.scales) << where.describe();
    EXPECT_LE(difference.loss, 5e-5) << where.describe();
    EXPECT_LE(difference.norm, 2e-3) << where.describe();
  }
}

}  // namespace
}  // namespace neox::testing
