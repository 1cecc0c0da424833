#include "core/base/rng.h"

#include <cmath>

#include <gtest/gtest.h>

namespace neox {
namespace {

// Known answers of the Random123 distribution (kat_vectors, philox4x32-10), counter {n,0,0,0}.
TEST(Philox, ZeroCounterZeroKey) {
  const auto words = philox(RngKey{0}, 0);
  EXPECT_EQ(words[0], 0x6627e8d5u);
  EXPECT_EQ(words[1], 0xe169c58du);
  EXPECT_EQ(words[2], 0xbc57ac4cu);
  EXPECT_EQ(words[3], 0x9b00dbd8u);
}

TEST(Philox, NormalHasUnitVarianceAndNoSerialCorrelation) {
  const RngKey key = RngKey::for_tensor(1234, "weight");
  double sum = 0, squares = 0, lag = 0;
  float previous = 0;
  constexpr int n = 200000;
  for (int i = 0; i < n; ++i) {
    const float x = normal_at(key, static_cast<std::uint64_t>(i));
    sum += x;
    squares += double(x) * x;
    lag += double(x) * previous;
    previous = x;
  }
  EXPECT_NEAR(sum / n, 0.0, 0.01);
  EXPECT_NEAR(squares / n, 1.0, 0.02);
  EXPECT_NEAR(lag / n, 0.0, 0.01);
}

TEST(Philox, StreamsDiffer) {
  EXPECT_FALSE(RngKey::for_tensor(1, "a") == RngKey::for_tensor(1, "b"));
  EXPECT_FALSE(RngKey::for_tensor(1, "a") == RngKey::for_tensor(2, "a"));
  EXPECT_FALSE(RngKey::make(1, RngPurpose::mlp_output_dropout, 0, 1) ==
               RngKey::make(1, RngPurpose::mlp_output_dropout, 1, 0));
}

}  // namespace
}  // namespace neox
