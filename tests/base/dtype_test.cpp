#include "core/base/dtype.h"

#include <cmath>
#include <limits>

#include <gtest/gtest.h>

namespace neox {
namespace {

TEST(Bf16, RoundsToNearestEvenAndKeepsNan) {
  EXPECT_EQ(bf16(1.0f).bits, 0x3f80);
  EXPECT_EQ(bf16(1.00390625f).bits, 0x3f80);  // halfway, even stays
  EXPECT_EQ(bf16(1.01171875f).bits, 0x3f82);  // halfway, odd goes up
  EXPECT_TRUE(std::isnan(float(bf16(std::numeric_limits<float>::quiet_NaN()))));
  EXPECT_TRUE(std::isinf(float(bf16(std::numeric_limits<float>::infinity()))));
}

TEST(Bf16, EveryPatternSurvivesTheRoundTrip) {
  for (std::uint32_t i = 0; i < 65536; ++i) {
    bf16 x;
    x.bits = static_cast<std::uint16_t>(i);
    const float f = float(x);
    if (std::isnan(f)) continue;
    EXPECT_EQ(bf16(f).bits, x.bits);
  }
}

TEST(F16, EveryPatternSurvivesTheRoundTripAndMatchesTheCompiler) {
  for (std::uint32_t i = 0; i < 65536; ++i) {
    f16 x;
    x.bits = static_cast<std::uint16_t>(i);
    const float f = float(x);
    if (std::isnan(f)) continue;
    EXPECT_EQ(f16(f).bits, x.bits);
    if (std::isfinite(f)) {
      const float up = f * 1.0004f;  // between two halves
      EXPECT_EQ(f16(up).bits, std::bit_cast<std::uint16_t>(static_cast<_Float16>(up)));
    }
  }
}

TEST(DType, NamesAreInverse) {
  for (const DType d : {DType::f32, DType::bf16, DType::f16, DType::i32, DType::u16}) {
    EXPECT_EQ(dtype_from_name(name_of(d)), d);
  }
  EXPECT_EQ(dtype_from_name("bfloat16"), DType::bf16);
  EXPECT_THROW(dtype_from_name("float12"), std::exception);
}

}  // namespace
}  // namespace neox
