#include <cmath>
#include <cstring>
#include <random>

#include <gtest/gtest.h>

#include "core/tensor/buffer.h"
#include "kernels/cpu/attention.h"

namespace neox {
namespace {

struct Rotary {
  std::int64_t batch = 2, seq = 5, heads = 3, dim = 64, half = 32;
  std::int64_t width = 3 * heads * dim;  // [heads, (q, k, v), dim]
  OwnedTensor x, positions, cosines, sines;
  std::vector<double> before;

  explicit Rotary(std::int64_t head_dim = 64, std::int64_t rotated_half = 32,
                  DType dtype = DType::f32)
      : dim(head_dim), half(rotated_half) {
    width = 3 * heads * dim;
    x = OwnedTensor({batch * seq, width}, dtype);
    positions = OwnedTensor({batch * seq}, DType::i32);
    cosines = OwnedTensor({100, half}, DType::f32);
    sines = OwnedTensor({100, half}, DType::f32);
    std::mt19937 random(3);
    std::normal_distribution<float> normal;
    visit_float(dtype, [&](auto zero) {
      using T = decltype(zero);
      for (T& e : x.tensor.span<T>()) e = static_cast<T>(normal(random));
    });
    for (std::int64_t r = 0; r < batch * seq; ++r) {
      positions.tensor.ptr<std::int32_t>()[r] = static_cast<std::int32_t>((r * 37 + 11) % 100);
    }
    for (std::int64_t p = 0; p < 100; ++p) {
      for (std::int64_t c = 0; c < half; ++c) {
        const double angle = static_cast<double>(p) *
                             std::pow(10000.0, -static_cast<double>(c) / static_cast<double>(half));
        cosines.tensor.ptr<float>()[p * half + c] = static_cast<float>(std::cos(angle));
        sines.tensor.ptr<float>()[p * half + c] = static_cast<float>(std::sin(angle));
      }
    }
    before = values();
  }
  // Turns the q or k (`part` 0 or 1) of all heads.
  void rotate(int part, bool inverse) {
    cpu::rotary(Heads(x, seq, part * dim, 3 * dim), batch, seq, heads, positions, cosines, sines,
                inverse);
  }
  std::vector<double> values() const {
    std::vector<double> all;
    visit_float(x.tensor.dtype, [&](auto zero) {
      using T = decltype(zero);
      for (const T e : x.tensor.span<T>())
        all.push_back(static_cast<double>(static_cast<float>(e)));
    });
    return all;
  }
  std::vector<double> reference(int part, bool inverse) const {
    std::vector<double> y = before;
    for (std::int64_t r = 0; r < batch * seq; ++r) {
      for (std::int64_t a = 0; a < heads; ++a) {
        for (std::int64_t c = 0; c < half; ++c) {
          const std::int64_t row = positions.tensor.ptr<std::int32_t>()[r] * half + c;
          const double cosine = static_cast<double>(cosines.tensor.ptr<float>()[row]);
          const double sine =
              static_cast<double>(sines.tensor.ptr<float>()[row]) * (inverse ? -1.0 : 1.0);
          const auto at = static_cast<std::size_t>(r * width + a * 3 * dim + part * dim + c);
          const auto pair = at + static_cast<std::size_t>(half);
          y[at] = before[at] * cosine - before[pair] * sine;
          y[pair] = before[pair] * cosine + before[at] * sine;
        }
      }
    }
    return y;
  }
};

TEST(Rotary, AgreesWithItsFormulaAndLeavesTheRestAlone) {
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    const double limit = dtype == DType::f32 ? 1e-6 : dtype == DType::f16 ? 0x1p-10 : 0x1p-7;
    for (const auto& [dim, half] : {std::pair{64, 32}, {64, 8}, {80, 40}, {7, 3}, {128, 63}}) {
      for (const bool inverse : {false, true}) {
        Rotary r(dim, half, dtype);
        r.rotate(1, inverse);
        const auto got = r.values(), want = r.reference(1, inverse);
        for (std::size_t i = 0; i < got.size(); ++i) {
          if (want[i] == r.before[i]) {
            ASSERT_EQ(got[i], want[i]);
          } else {
            ASSERT_NEAR(got[i], want[i], limit * (1.0 + std::abs(want[i])));
          }
        }
      }
    }
  }
}

TEST(Rotary, TheInverseRotatesBack) {
  Rotary r;
  r.rotate(0, false);
  EXPECT_NE(r.values(), r.before);
  r.rotate(0, true);
  const auto got = r.values();
  for (std::size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], r.before[i], 1e-6);
}

TEST(Rotary, ManyTokensInParallel) {
  Rotary small(64, 32);
  Rotary large(64, 32);
  large.seq = 1000;
  large.x = OwnedTensor({2000, large.width}, DType::f32);
  large.positions = OwnedTensor({2000}, DType::i32);
  for (std::int64_t r = 0; r < 2000; ++r) {
    const std::int64_t source = r % 10;
    large.positions.tensor.ptr<std::int32_t>()[r] =
        small.positions.tensor.ptr<std::int32_t>()[source];
    std::memcpy(large.x.tensor.ptr<float>() + r * large.width,
                small.x.tensor.ptr<float>() + source * large.width,
                static_cast<std::size_t>(large.width) * sizeof(float));
  }
  small.rotate(0, false);
  large.rotate(0, false);
  for (std::int64_t r = 0; r < 2000; ++r) {
    ASSERT_EQ(std::memcmp(large.x.tensor.ptr<float>() + r * large.width,
                          small.x.tensor.ptr<float>() + r % 10 * large.width,
                          static_cast<std::size_t>(large.width) * sizeof(float)),
              0);
  }
}

TEST(Rotary, RefusesPositionsOutsideTheTables) {
  Rotary r;
  r.positions.tensor.ptr<std::int32_t>()[3] = 100;
  EXPECT_THROW(r.rotate(0, false), Error);
  r.positions.tensor.ptr<std::int32_t>()[3] = -1;
  EXPECT_THROW(r.rotate(0, false), Error);
  EXPECT_EQ(r.values(), r.before);
}

TEST(Rotary, RefusesTablesWiderThanAHead) {
  Rotary r(64, 32);
  EXPECT_THROW(cpu::rotary(Heads(r.x, r.seq, 0, 32), r.batch, r.seq, r.heads, r.positions,
                           r.cosines, r.sines, false),
               Error);
}

}  // namespace
}  // namespace neox
