#include "kernels/cpu/simd_math.h"

#include <cmath>
#include <limits>

#include <gtest/gtest.h>

#include "kernels/cpu/activation_math.h"
#include "kernels/cpu/dropout_mask.h"

namespace neox::simd {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

/// Largest error over [low, high] in units in the last place of the exact result, or of `floor`.
template <class F, class Exact>
double worst_ulp(F f, Exact exact, float low, float high, float floor = 0.0f) {
  double worst = 0;
  constexpr int kPoints = 1 << 18;
  for (int i = 0; i < kPoints; i += kLanes) {
    Floats x{};
    for (int k = 0; k < kLanes; ++k)
      x[k] = low + (high - low) * static_cast<float>(i + k) / kPoints;
    const Floats y = f(x);
    for (int k = 0; k < kLanes; ++k) {
      const double want = exact(static_cast<double>(x[k]));
      const float near = std::max(std::abs(static_cast<float>(want)), floor);
      const double ulp =
          static_cast<double>(std::nextafter(near, kInf)) - static_cast<double>(near);
      worst = std::max(worst, std::abs(static_cast<double>(y[k]) - want) / ulp);
    }
  }
  return worst;
}

double exact_cdf(double x) {
  return 0.5 * std::erfc(-x / std::sqrt(2.0));
}

TEST(SimdMath, ExpIsExactToOneUlpAlsoWhereResultsAreDenormal) {
  const auto exact = [](double x) { return std::exp(x); };
  EXPECT_LT(worst_ulp([](Floats x) { return exp(x); }, exact, -87.0f, 88.7f), 1.0);
  EXPECT_LT(worst_ulp([](Floats x) { return exp(x); }, exact, -103.9f, -87.0f), 1.0);
}

TEST(SimdMath, SigmoidAndNormalDistribution) {
  const auto logistic = [](double x) { return 1 / (1 + std::exp(-x)); };
  EXPECT_LT(worst_ulp([](Floats x) { return sigmoid(x); }, logistic, -87.0f, 87.0f), 2.6);
  EXPECT_LT(worst_ulp([](Floats x) { return normal(x).cdf; }, exact_cdf, -13.0f, 13.0f), 5.5);
  EXPECT_LT(worst_ulp([](Floats x) { return normal(x).cdf; }, exact_cdf, -13.0f, 13.0f, 0.25f),
            3.6);
  const auto density = [](double x) { return std::exp(-x * x / 2) / std::sqrt(2 * M_PI); };
  EXPECT_LT(worst_ulp([](Floats x) { return normal(x).density; }, density, -13.0f, 13.0f), 4.0);
}

TEST(SimdMath, ActivationsKeepTheirRelativeAccuracyInTheLowerTail) {
  const auto gelu = [](double x) { return x * exact_cdf(x); };
  EXPECT_LT(worst_ulp([](Floats x) { return Gelu::value(x); }, gelu, -12.9f, 12.9f), 7.0);
  const auto silu = [](double x) { return x / (1 + std::exp(-x)); };
  EXPECT_LT(worst_ulp([](Floats x) { return Silu::value(x); }, silu, -80.0f, 80.0f), 3.0);
}

TEST(SimdMath, LimitsAndNan) {
  Floats x = {kInf, -kInf, kNan, 0.0f, 3e38f, -3e38f, 200.0f, -200.0f};
  const Floats e = exp(x);
  EXPECT_EQ(e[0], kInf);
  EXPECT_EQ(e[1], 0.0f);
  EXPECT_TRUE(std::isnan(e[2]));
  EXPECT_EQ(e[3], 1.0f);
  EXPECT_EQ(e[4], kInf);
  EXPECT_EQ(e[7], 0.0f);
  for (const Activation kind : {Activation::gelu, Activation::gelu_tanh, Activation::silu,
                                Activation::relu, Activation::mish, Activation::sigmoid}) {
    visit_activation(kind, [&](auto act) {
      const Floats value = act.value(x);
      const ValueAndSlope both = act.both(x);
      const bool is_sigmoid = kind == Activation::sigmoid;
      for (int i = 0; i < 8; ++i) {
        if (i == 2) {
          EXPECT_TRUE(std::isnan(value[i])) << int(kind);
          EXPECT_TRUE(std::isnan(both.value[i])) << int(kind);
          continue;
        }
        if (i == 3) continue;  // the value at 0 is tested elsewhere
        const bool positive = x[i] > 0;
        EXPECT_FLOAT_EQ(value[i], !positive ? 0.0f : is_sigmoid ? 1.0f : x[i]) << int(kind);
        if (positive) {
          EXPECT_EQ(both.value[i], value[i]) << int(kind);
        } else {
          EXPECT_NEAR(both.value[i], 0.0f, 1e-30f) << int(kind);
        }
        EXPECT_NEAR(both.slope[i], positive && !is_sigmoid ? 1.0f : 0.0f, 1e-30f) << int(kind);
      }
    });
  }
}

TEST(SimdMath, ConversionsEqualTheScalarOnesForEveryPattern) {
  std::uint32_t pattern = 1;
  for (int i = 0; i < 1 << 16; ++i) {
    float values[kLanes];
    for (float& v : values) {
      pattern = pattern * 1664525u + 1013904223u;
      v = std::bit_cast<float>(pattern);
    }
    bf16 brain[kLanes];
    f16 half[kLanes];
    store(brain, load(values));
    store(half, load(values));
    for (int k = 0; k < kLanes; ++k) {
      // Denormals may be flushed.
      const bool tiny = std::abs(values[k]) < std::numeric_limits<float>::min();
      ASSERT_TRUE(brain[k].bits == bf16(values[k]).bits ||
                  (tiny && static_cast<float>(brain[k]) == 0.0f))
          << values[k];
      if (std::isnan(values[k])) {
        ASSERT_TRUE(std::isnan(static_cast<float>(half[k])));
      } else {
        ASSERT_EQ(half[k].bits, f16(values[k]).bits) << values[k];
      }
      ASSERT_TRUE(std::isnan(values[k]) || load(brain)[k] == static_cast<float>(brain[k]));
    }
  }
  for (std::uint32_t i = 0; i < 65536; i += kLanes) {
    f16 half[kLanes];
    for (std::uint32_t k = 0; k < kLanes; ++k) half[k].bits = static_cast<std::uint16_t>(i + k);
    const Floats wide = load(half);
    for (int k = 0; k < kLanes; ++k) {
      const float want = static_cast<float>(half[k]);
      ASSERT_TRUE(std::isnan(want) ? std::isnan(wide[k]) : wide[k] == want);
    }
  }
}

TEST(SimdMath, PhiloxBlocksHoldTheWordsOfTheScalarGenerator) {
  const RngKey key{0x123456789abcdef0u};
  for (const std::uint64_t counter : {0ull, 5ull, 0xfffffffaull, 0x1fffffffffull}) {
    std::uint32_t words[kPhiloxBlock];
    philox_block(key, counter, words);
    for (std::uint64_t i = 0; i < kPhiloxBlock; ++i) {
      ASSERT_EQ(words[i], philox_word(key, 4 * counter + i));
    }
  }
}

TEST(SimdMath, KeepRuleDecidesAsTheFloatComparison) {
  for (const float p : {0.1f, 0.25f, 0.5f, 0.9f, 0x1p-24f, 0.3f}) {
    const KeepRule rule(p);
    const auto border = static_cast<std::uint32_t>(static_cast<double>(p) * 0x1p24);
    for (std::uint32_t near = border == 0 ? 0 : border - 1; near <= border + 1; ++near) {
      const std::uint32_t word = near << 8 | 0x7f;
      const Floats kept = rule.apply(Words{} + word, broadcast(1.0f));
      EXPECT_EQ(kept[0] != 0.0f, uniform01(word) >= p) << p << " " << near;
    }
  }
}

}  // namespace
}  // namespace neox::simd
