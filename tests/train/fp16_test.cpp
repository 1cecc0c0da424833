// Training in fp16 on one rank: what the loss scale does to numbers, and fp16 against fp32 and
// bf16.

#include <algorithm>
#include <cmath>
#include <cstdio>

#include <gtest/gtest.h>

#include "comm/communicator.h"
#include "tests/train/layout_run.h"

namespace neox::testing {
namespace {

class Fp16 : public ::testing::Test {
 protected:
  RunSize size_of(DType precision, std::int64_t power = 12) const {
    RunSize size;
    size.precision.precision = precision;
    if (precision == DType::f16) size.precision.initial_scale_power = power;
    return size;
  }
  Layout layout(Family family) const {
    Layout layout;
    layout.family = family;
    layout.micro_batch = 4;  // three micro-batches
    return layout;
  }
  Reference trained(const RunSize& size, int steps, Family family = Family::neox) const {
    LayoutRun run(*world_, layout(family), size);
    run.train(steps);
    return run.reference();
  }
  std::unique_ptr<Communicator> world_ = make_self_communicator("world");
};

// In f32 a power of two changes exponents only: whatever is left of the scale shows in the bits.
TEST_F(Fp16, ThePowerOfTwoIsTakenAwayExactlyOnce) {
  for (const double clipping : {0.5, 0.0, 1e6}) {
    RunSize size;
    size.gradient_clipping = clipping;
    const Reference plain = trained(size, 3);
    size.loss_scale = 1024.0;
    const Reference scaled = trained(size, 3);
    EXPECT_EQ(plain.losses, scaled.losses) << clipping;
    EXPECT_EQ(plain.norms, scaled.norms) << clipping;
    EXPECT_TRUE(plain.weights == scaled.weights) << clipping;
  }
}

TEST_F(Fp16, EveryOptimizerTakesTheScaleAway) {
  for (const char* type : {"lion", "sgd", "madgrad_wd", "lamb", "sm3"}) {
    Layout where = layout(Family::neox);
    where.optimizer = type;
    const auto trained = [&](double loss_scale) {
      RunSize size;
      size.loss_scale = loss_scale;
      LayoutRun run(*world_, where, size);
      run.train(3);
      return run.reference();
    };
    const Reference plain = trained(1.0), scaled = trained(4096.0);
    EXPECT_EQ(plain.losses, scaled.losses) << type;
    EXPECT_EQ(plain.norms, scaled.norms) << type;
    EXPECT_TRUE(plain.weights == scaled.weights) << type;
  }
}

TEST_F(Fp16, AnyScaleIsTakenAwayUpToRounding) {
  const Reference plain = trained({}, 4);
  RunSize size;
  size.loss_scale = 1000.0;
  LayoutRun run(*world_, layout(Family::neox), size);
  run.train(4);
  const Difference difference = run.difference(plain);
  EXPECT_TRUE(difference.within_tolerance())
      << difference.loss << " " << difference.norm << " " << difference.weight;
}

// Of two curves, relative, in order of size.
std::vector<double> differences(const std::vector<double>& a, const std::vector<double>& b) {
  EXPECT_EQ(a.size(), b.size());
  std::vector<double> all;
  for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    all.push_back(std::abs(a[i] - b[i]) / std::abs(b[i]));
    EXPECT_TRUE(std::isfinite(all.back())) << i;
  }
  std::sort(all.begin(), all.end());
  return all;
}
double worst(const std::vector<double>& a, const std::vector<double>& b) {
  return differences(a, b).back();
}
double median(const std::vector<double>& a, const std::vector<double>& b) {
  return differences(a, b).at(a.size() / 2);
}

TEST_F(Fp16, FollowsFp32CloserThanBfloat16Does) {
  for (const Family family : {Family::neox, Family::gpt2, Family::llama}) {
    const int steps = family == Family::neox ? 50 : 10;
    const Reference exact = trained(size_of(DType::f32), steps, family);
    const Reference half = trained(size_of(DType::f16), steps, family);
    const Reference brain = trained(size_of(DType::bf16), steps, family);
    const double losses = worst(half.losses, exact.losses);
    const double norms = median(half.norms, exact.norms);
    const double brain_losses = worst(brain.losses, exact.losses);
    const double brain_norms = median(brain.norms, exact.norms);
    std::printf(
        "    %-6s %d steps, from fp32: losses %.1e in fp16, %.1e in bf16; norms (median) %.1e, "
        "%.1e\n",
        name_of(family), steps, losses, brain_losses, norms, brain_norms);
    EXPECT_LE(losses, 1e-4) << name_of(family);
    EXPECT_LE(norms, 5e-4) << name_of(family);
    EXPECT_LT(losses, brain_losses / 2) << name_of(family);
    EXPECT_LT(norms, brain_norms / 2) << name_of(family);
    EXPECT_EQ(half.scales, std::vector<double>(static_cast<std::size_t>(steps), 4096.0));
  }
}

// |gradient - exact| / |exact| over all parameters after one step; both without their scales.
class Gradients {
 public:
  Gradients(Communicator& world, const Layout& layout, const RunSize& size, double smaller = 1.0)
      : run_(world, layout, size) {
    Engine& engine = run_.engine();
    const Config& config = run_.config();
    const std::int64_t rows = config.batch.train_micro_batch_size_per_gpu * 16;
    std::vector<MicroBatch> batches;
    for (std::int64_t b = 0; b < config.batch.gradient_accumulation_steps; ++b) {
      MicroBatch& batch = batches.emplace_back();
      batch.first_sample = b * config.batch.train_micro_batch_size_per_gpu;
      for (std::int64_t i = b * rows; i < (b + 1) * rows; ++i) {
        batch.tokens.push_back(static_cast<std::int32_t>(i * i * 31 % 89));
        batch.labels.push_back(static_cast<std::int32_t>((i + 1) * (i + 1) * 31 % 89));
        batch.loss_mask.push_back(1.0f);
      }
    }
    Engine::StepLimits limits;
    limits.loss_scale = size.loss_scale;
    const double scale = smaller / static_cast<double>(rows * std::int64_t(batches.size()));
    engine.train_step(batches, scale, 0, 0.0, limits);
    const Tensor all = engine.model().parameters().grads();
    for (std::int64_t i = 0; i < all.numel(); ++i) {
      values_.push_back(double{all.ptr<float>()[i]} / size.loss_scale / smaller);
    }
  }
  double error(const Gradients& exact) const {
    double difference = 0, norm = 0;
    for (std::size_t i = 0; i < values_.size(); ++i) {
      difference += std::pow(values_[i] - exact.values_[i], 2);
      norm += std::pow(exact.values_[i], 2);
    }
    return std::sqrt(difference / norm);
  }

 private:
  LayoutRun run_;
  std::vector<double> values_;
};

TEST_F(Fp16, GradientsAreThoseOfFp32) {
  for (const Family family : {Family::neox, Family::gpt2, Family::llama}) {
    const Layout where = layout(family);
    const Gradients exact(*world_, where, {});
    RunSize half = size_of(DType::f16);
    half.loss_scale = 4096;
    const double error = Gradients(*world_, where, half).error(exact);
    const double brain = Gradients(*world_, where, size_of(DType::bf16)).error(exact);
    std::printf("    %-6s gradients differ from fp32's by %.1e in fp16, %.1e in bf16\n",
                name_of(family), error, brain);
    EXPECT_LE(error, 2e-3);
    EXPECT_LT(error, brain / 3);
  }
}

// What the scale is for: gradients of a batch a million times larger.
TEST_F(Fp16, TheScaleKeepsSmallGradients) {
  const Layout where = layout(Family::neox);
  constexpr double kSmaller = 0x1p-20;
  const Gradients exact(*world_, where, {}, kSmaller);
  RunSize half = size_of(DType::f16);
  const double lost = Gradients(*world_, where, half, kSmaller).error(exact);
  half.loss_scale = 0x1p32;
  const double kept = Gradients(*world_, where, half, kSmaller).error(exact);
  std::printf("    error of small gradients: %.2f without a scale, %.1e with one\n", lost, kept);
  EXPECT_GT(lost, 0.5);
  EXPECT_LE(kept, 2e-3);
}

// Gradients overflow at first; the scale falls to where they don't, and the run trains.
TEST_F(Fp16, AScaleThatIsTooHighComesDown) {
  LayoutRun run(*world_, layout(Family::neox), size_of(DType::f16, 30));
  const Reference before = run.reference();
  std::int64_t skipped = 0;
  while (skipped < 30) {
    run.train(1);
    if (run.scaler_state().overflow_steps == skipped) break;
    ++skipped;
    // Nothing has moved: weights, AdamW's t.
    ASSERT_TRUE(run.reference().weights == before.weights) << skipped;
    ASSERT_EQ(run.engine().optimizer().steps_taken(), 0);
  }
  EXPECT_GE(skipped, 4);
  EXPECT_LE(skipped, 12);
  // The first overflow does not halve it.
  EXPECT_EQ(run.scales().back(), std::ldexp(0x1p30, 1 - static_cast<int>(skipped)));
  EXPECT_EQ(run.engine().optimizer().steps_taken(), 1);
  EXPECT_FALSE(run.reference().weights == before.weights);
  run.train(20);
  EXPECT_EQ(run.scaler_state().overflow_steps, skipped);
  EXPECT_EQ(run.engine().optimizer().steps_taken(), 21);
  EXPECT_LT(run.losses().back(), run.losses().front());
}

TEST_F(Fp16, AStaticScale) {
  RunSize fixed = size_of(DType::f16);
  fixed.precision = {};
  fixed.precision.precision = DType::f16;
  fixed.precision.loss_scale = 4096;
  const Reference reference = trained(fixed, 5);
  const Reference dynamic = trained(size_of(DType::f16), 5);
  EXPECT_EQ(reference.losses, dynamic.losses);
  EXPECT_TRUE(reference.weights == dynamic.weights);
  // An overflow is left to the guards: the step changes nothing, the scale stays.
  fixed.precision.loss_scale = 0x1p30;
  LayoutRun run(*world_, layout(Family::neox), fixed);
  const auto before = run.reference().weights;
  run.train(3);
  EXPECT_TRUE(run.reference().weights == before);
  EXPECT_FALSE(std::isfinite(run.norms().back()));
  EXPECT_EQ(run.scales(), std::vector<double>(3, 0x1p30));
}

}  // namespace
}  // namespace neox::testing
