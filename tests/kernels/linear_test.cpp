// CpuGemm (the linear operators of the CPU backend) against float64 references.
#include <bit>
#include <cmath>
#include <cstdlib>
#include <span>
#include <vector>

#include <gtest/gtest.h>
#include <omp.h>

#include "core/base/rng.h"
#include "core/tensor/buffer.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/pack.h"

namespace neox {
namespace {

struct Problem {
  std::int64_t rows, in, out;
};

// A tensor of roughly N(0, 1) values, rounded to its dtype, with the rounded values as doubles.
struct Values {
  Values(Shape shape, DType dtype, std::string_view name) : tensor(shape, dtype) {
    const RngKey key = RngKey::for_tensor(7, name);
    reference.resize(static_cast<std::size_t>(shape.numel()));
    visit_float(dtype, [&](auto zero) {
      using T = decltype(zero);
      T* data = tensor.tensor.ptr<T>();
      for (std::size_t i = 0; i < reference.size(); ++i) {
        data[i] = static_cast<T>(normal_at(key, i));
        reference[i] = static_cast<double>(static_cast<float>(data[i]));
      }
    });
  }
  OwnedTensor tensor;
  std::vector<double> reference;
};

double value_at(ConstTensor t, std::int64_t i) {
  return visit_float(t.dtype, [&](auto zero) {
    using T = decltype(zero);
    return static_cast<double>(static_cast<float>(t.ptr<T>()[i]));
  });
}

// Relative to the magnitude ~sqrt(k) of a sum of k products of N(0, 1) values, f32 accumulation
// stays within 1e-5. Storing in bf16 or f16 adds half a unit in the last place: 2^-8 or 2^-11 of
// the value.
double tolerance(DType stored, std::int64_t k, double value) {
  const double scale = std::sqrt(static_cast<double>(std::max<std::int64_t>(k, 1)));
  const double rounding = stored == DType::bf16 ? 0x1p-8 : stored == DType::f16 ? 0x1p-11 : 0.0;
  return scale * 1e-5 + std::abs(value) * rounding;
}

void expect_close(ConstTensor got, const std::vector<double>& want, std::int64_t k,
                  const char* what) {
  ASSERT_EQ(static_cast<std::size_t>(got.numel()), want.size());
  std::size_t wrong = 0, first = 0;
  for (std::size_t i = want.size(); i-- > 0;) {
    const double error = std::abs(value_at(got, static_cast<std::int64_t>(i)) - want[i]);
    if (error <= tolerance(got.dtype, k, want[i])) continue;  // false for NaN
    ++wrong;
    first = i;
  }
  EXPECT_EQ(wrong, 0u) << what << ": first at " << first << ", "
                       << value_at(got, static_cast<std::int64_t>(first)) << " instead of "
                       << want[first];
}

std::vector<double> forward_reference(const Problem& p, const Values& x, const Values& w,
                                      const Values* bias) {
  std::vector<double> y(static_cast<std::size_t>(p.rows * p.out));
  for (std::int64_t r = 0; r < p.rows; ++r) {
    for (std::int64_t o = 0; o < p.out; ++o) {
      double sum = bias != nullptr ? bias->reference[static_cast<std::size_t>(o)] : 0.0;
      for (std::int64_t i = 0; i < p.in; ++i) {
        sum += x.reference[static_cast<std::size_t>(r * p.in + i)] *
               w.reference[static_cast<std::size_t>(o * p.in + i)];
      }
      y[static_cast<std::size_t>(r * p.out + o)] = sum;
    }
  }
  return y;
}

void check_forward(CpuGemm& gemm, const Problem& p, DType dtype, DType out, bool with_bias) {
  const Values x({p.rows, p.in}, dtype, "x"), w({p.out, p.in}, dtype, "w"), b({p.out}, dtype, "b");
  OwnedTensor y({p.rows, p.out}, out);
  const auto want = forward_reference(p, x, w, with_bias ? &b : nullptr);
  gemm.weights_changed();
  for (int use = 0; use < 3; ++use) {  // the second use makes a kept copy, the third reads it
    gemm.forward(x.tensor, w.tensor, with_bias ? ConstTensor(b.tensor) : ConstTensor{}, y);
    expect_close(y, want, p.in, "y");
  }
}

void check_backward_input(CpuGemm& gemm, const Problem& p, DType dtype, bool accumulate) {
  const Values dy({p.rows, p.out}, dtype, "dy"), w({p.out, p.in}, dtype, "w");
  Values dx({p.rows, p.in}, dtype, "dx");
  std::vector<double> want(dx.reference.size());
  for (std::int64_t r = 0; r < p.rows; ++r) {
    for (std::int64_t i = 0; i < p.in; ++i) {
      const auto at = static_cast<std::size_t>(r * p.in + i);
      want[at] = accumulate ? dx.reference[at] : 0.0;
      for (std::int64_t o = 0; o < p.out; ++o) {
        want[at] += dy.reference[static_cast<std::size_t>(r * p.out + o)] *
                    w.reference[static_cast<std::size_t>(o * p.in + i)];
      }
    }
  }
  gemm.weights_changed();
  gemm.backward_input(dy.tensor, w.tensor, dx.tensor, accumulate);
  expect_close(dx.tensor, want, p.out, "dx");
}

void check_backward_weight(CpuGemm& gemm, const Problem& p, DType dtype, bool accumulate,
                           bool with_bias) {
  const Values dy({p.rows, p.out}, dtype, "dy"), x({p.rows, p.in}, dtype, "x");
  Values dw({p.out, p.in}, DType::f32, "dw"), db({p.out}, DType::f32, "db");
  std::vector<double> want = dw.reference, want_db = db.reference;
  if (!accumulate) {
    std::fill(want.begin(), want.end(), 0.0);
    std::fill(want_db.begin(), want_db.end(), 0.0);
  }
  for (std::int64_t r = 0; r < p.rows; ++r) {
    for (std::int64_t o = 0; o < p.out; ++o) {
      const double g = dy.reference[static_cast<std::size_t>(r * p.out + o)];
      want_db[static_cast<std::size_t>(o)] += g;
      for (std::int64_t i = 0; i < p.in; ++i) {
        want[static_cast<std::size_t>(o * p.in + i)] +=
            g * x.reference[static_cast<std::size_t>(r * p.in + i)];
      }
    }
  }
  gemm.backward_weight(dy.tensor, x.tensor, dw.tensor, with_bias ? db.tensor.tensor : Tensor{},
                       accumulate);
  expect_close(dw.tensor, want, p.rows, "dw");
  if (with_bias) expect_close(db.tensor, want_db, p.rows, "db");
}

const Problem kProblems[] = {{1, 1, 1},     {1, 64, 96},    {3, 17, 5},     {8, 100, 33},
                             {9, 64, 64},   {31, 50, 70},   {32, 64, 64},   {33, 65, 67},
                             {64, 1, 3},    {64, 3, 1},     {100, 96, 130}, {128, 257, 129},
                             {37, 768, 96}, {257, 48, 511}, {2100, 33, 40}, {0, 16, 16},
                             {48, 0, 16},   {48, 16, 0},    {40, 20, 1100}};

class LinearTest : public testing::TestWithParam<DType> {};

TEST_P(LinearTest, ForwardMatchesReference) {
  CpuGemm gemm;
  for (const Problem& p : kProblems) {
    SCOPED_TRACE(testing::Message() << p.rows << " x " << p.in << " -> " << p.out);
    for (const bool bias : {false, true}) check_forward(gemm, p, GetParam(), GetParam(), bias);
    check_forward(gemm, p, GetParam(), DType::f32, true);
  }
}

TEST_P(LinearTest, BackwardInputMatchesReference) {
  CpuGemm gemm;
  for (const Problem& p : kProblems) {
    SCOPED_TRACE(testing::Message() << p.rows << " x " << p.in << " -> " << p.out);
    for (const bool accumulate : {false, true}) {
      check_backward_input(gemm, p, GetParam(), accumulate);
    }
  }
}

TEST_P(LinearTest, BackwardWeightMatchesReference) {
  CpuGemm gemm;
  for (const Problem& p : kProblems) {
    SCOPED_TRACE(testing::Message() << p.rows << " x " << p.in << " -> " << p.out);
    for (const bool accumulate : {false, true}) {
      for (const bool bias : {false, true}) {
        check_backward_weight(gemm, p, GetParam(), accumulate, bias);
      }
    }
  }
}

TEST_P(LinearTest, ManyThreadsAgree) {
  const int threads = omp_get_max_threads();
  for (const int count : {1, 3, 4}) {
    omp_set_num_threads(count);
    CpuGemm gemm;
    const Problem p{70, 200, 150};
    check_forward(gemm, p, GetParam(), GetParam(), true);
    check_backward_input(gemm, p, GetParam(), true);
    check_backward_weight(gemm, p, GetParam(), true, true);
  }
  omp_set_num_threads(threads);
}

INSTANTIATE_TEST_SUITE_P(Types, LinearTest, testing::Values(DType::f32, DType::bf16, DType::f16),
                         [](const auto& param_info) {
                           return std::string(name_of(param_info.param));
                         });

// Slices of several megabytes, the packed layout's tails, and more rows than one gradient product
// takes.
TEST(Linear, LargeProblemsMatchSampledReference) {
  const Problem p{2500, 1500, 5001};
  for (const DType dtype : {DType::f32, DType::bf16}) {
    SCOPED_TRACE(name_of(dtype));
    CpuGemm gemm;
    const Values x({p.rows, p.in}, dtype, "x"), w({p.out, p.in}, dtype, "w");
    const Values dy({p.rows, p.out}, dtype, "dy");
    OwnedTensor y({p.rows, p.out}, dtype), dx({p.rows, p.in}, dtype), dw({p.out, p.in}, DType::f32),
        db({p.out}, DType::f32);
    for (int use = 0; use < 2; ++use) {
      gemm.forward(x.tensor, w.tensor, {}, y);
      gemm.backward_input(dy.tensor, w.tensor, dx, false);
    }
    gemm.backward_weight(dy.tensor, x.tensor, dw, db, false);
    for (std::int64_t s = 0; s < 400; ++s) {
      const std::int64_t r = s * 7919 % p.rows, i = s * 104729 % p.in;
      const std::int64_t o = s == 0 ? p.out - 1 : s * 15485863 % p.out;
      double want_y = 0, want_dx = 0, want_dw = 0, want_db = 0;
      for (std::int64_t j = 0; j < p.in; ++j) {
        want_y += value_at(x.tensor, r * p.in + j) * value_at(w.tensor, o * p.in + j);
      }
      for (std::int64_t j = 0; j < p.out; ++j) {
        want_dx += value_at(dy.tensor, r * p.out + j) * value_at(w.tensor, j * p.in + i);
      }
      for (std::int64_t j = 0; j < p.rows; ++j) {
        want_dw += value_at(dy.tensor, j * p.out + o) * value_at(x.tensor, j * p.in + i);
        want_db += value_at(dy.tensor, j * p.out + o);
      }
      ASSERT_NEAR(value_at(y, r * p.out + o), want_y, tolerance(dtype, p.in, want_y));
      ASSERT_NEAR(value_at(dx, r * p.in + i), want_dx, tolerance(dtype, p.out, want_dx));
      ASSERT_NEAR(value_at(dw, o * p.in + i), want_dw, tolerance(DType::f32, p.rows, 0));
      ASSERT_NEAR(value_at(db, o), want_db, tolerance(DType::f32, p.rows, 0));
    }
  }
}

std::vector<std::byte> bytes_of(ConstTensor t) {
  return {t.data, t.data + t.bytes()};
}

TEST(Linear, KeptCopiesGiveTheSameBitsAndFollowWeightsChanged) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    SCOPED_TRACE(name_of(dtype));
    CpuGemm gemm;
    const Problem p{96, 320, 4100};
    const Values x({p.rows, p.in}, dtype, "x"), dy({p.rows, p.out}, dtype, "dy");
    Values w({p.out, p.in}, dtype, "w");
    const Values other({p.out, p.in}, dtype, "other w");
    OwnedTensor y({p.rows, p.out}, dtype), dx({p.rows, p.in}, dtype);
    const auto products = [&] {
      gemm.forward(x.tensor, w.tensor, {}, y);
      gemm.backward_input(dy.tensor, w.tensor, dx, false);
      auto result = bytes_of(y);
      const auto more = bytes_of(dx);
      result.insert(result.end(), more.begin(), more.end());
      return result;
    };
    const auto first = products();
    EXPECT_EQ(products(), first);
    EXPECT_EQ(products(), first);

    std::copy_n(other.tensor.tensor.data, other.tensor.tensor.bytes(), w.tensor.tensor.data);
    gemm.weights_changed();
    const auto changed = products();
    EXPECT_NE(changed, first);
    EXPECT_EQ(products(), changed);
    const auto want = forward_reference(p, x, other, nullptr);
    expect_close(y, want, p.in, "y after the change");

    CpuGemm fresh;  // a backend without history computes the same bits
    fresh.forward(x.tensor, w.tensor, {}, y);
    EXPECT_TRUE(std::equal(changed.begin(),
                           changed.begin() + static_cast<std::ptrdiff_t>(y.tensor.bytes()),
                           y.tensor.data));
  }
}

TEST(Linear, SteadyStateAllocatesNothing) {
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    SCOPED_TRACE(name_of(dtype));
    CpuGemm gemm;
    const Problem small{4, 96, 130}, large{200, 96, 130};
    const auto step = [&, xs = Values({small.rows, small.in}, dtype, "xs"),
                       xl = Values({large.rows, large.in}, dtype, "xl"),
                       w = Values({large.out, large.in}, dtype, "w"),
                       dy = Values({large.rows, large.out}, dtype, "dy"),
                       ys = OwnedTensor({small.rows, small.out}, dtype),
                       yl = OwnedTensor({large.rows, large.out}, dtype),
                       dx = OwnedTensor({large.rows, large.in}, dtype),
                       dw = OwnedTensor({large.out, large.in}, DType::f32),
                       db = OwnedTensor({large.out}, DType::f32)] {
      gemm.forward(xs.tensor, w.tensor, {}, ys);
      for (int micro = 0; micro < 2; ++micro) {
        gemm.forward(xl.tensor, w.tensor, {}, yl);
        gemm.backward_input(dy.tensor, w.tensor, dx, micro > 0);
        gemm.backward_weight(dy.tensor, xl.tensor, dw, db, micro > 0);
      }
      gemm.weights_changed();
    };
    step();
    step();
    const AllocationCounts before = allocation_counts();
    for (int i = 0; i < 5; ++i) step();
    EXPECT_EQ(allocation_counts().calls, before.calls);
    EXPECT_EQ(allocation_counts().bytes_live, before.bytes_live);
  }
}

TEST(Linear, RepeatsBitForBit) {
  const Problem p{130, 200, 300};
  const Values x({p.rows, p.in}, DType::bf16, "x"), dy({p.rows, p.out}, DType::bf16, "dy");
  std::vector<std::byte> first;
  for (int repeat = 0; repeat < 5; ++repeat) {
    CpuGemm gemm;
    OwnedTensor dw({p.out, p.in}, DType::f32), db({p.out}, DType::f32);
    gemm.backward_weight(dy.tensor, x.tensor, dw, db, false);
    auto result = bytes_of(dw);
    const auto more = bytes_of(db);
    result.insert(result.end(), more.begin(), more.end());
    if (repeat == 0) first = result;
    EXPECT_EQ(result, first);
  }
}

// Infinities and NaN must survive: loss scaling looks for them.
TEST(Linear, NonFiniteValuesPropagate) {
  CpuGemm gemm;
  for (const std::int64_t rows : {std::int64_t{2}, std::int64_t{64}}) {
    Values x({rows, 40}, DType::f32, "x");
    const Values w({50, 40}, DType::f32, "w");
    x.tensor.tensor.ptr<float>()[3] = INFINITY;
    x.tensor.tensor.ptr<float>()[43] = NAN;
    OwnedTensor y({rows, 50}, DType::f32);
    gemm.forward(x.tensor, w.tensor, {}, y);
    EXPECT_TRUE(std::isinf(value_at(y, 0)));
    EXPECT_TRUE(std::isnan(value_at(y, 50)));
  }
}

TEST(Pack, LayoutsAreAsDocumented) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const std::int64_t k = 75, n = 101, pair = dtype == DType::f32 ? 1 : 2;
    const std::int64_t k_blocks = (k + 16 * pair - 1) / (16 * pair);
    const PackedLayout layout{dtype, k, n, 32, 16 * 32, 16 * 32 * k_blocks};
    const Values rows({k, n}, dtype, "b"), columns({n, k}, dtype, "b^T");
    const Buffer memory(static_cast<std::size_t>(4 * layout.n_stride) * 4, Device{});
    const std::span packed(reinterpret_cast<std::uint32_t*>(memory.data()), memory.bytes() / 4);
    std::fill(packed.begin(), packed.end(), 0xffffffffu);
    const auto element = [&](std::int64_t i, std::int64_t c) {
      const std::int64_t kw = i / pair;
      const std::uint32_t word = packed[static_cast<std::size_t>(
          c / 32 * layout.n_stride + kw / 16 * layout.k_stride + kw % 16 * 32 + c % 32)];
      if (dtype == DType::f32) return static_cast<double>(std::bit_cast<float>(word));
      bf16 half;
      half.bits = static_cast<std::uint16_t>(i % 2 == 0 ? word : word >> 16);
      return static_cast<double>(static_cast<float>(half));
    };
    for (const bool transposed : {false, true}) {
      if (transposed) {
        pack_transposed(columns.tensor.tensor.data, k, layout, packed.data());
      } else {
        pack_rows(rows.tensor.tensor.data, n, layout, packed.data());
      }
      for (std::int64_t i = 0; i < k_blocks * 16 * pair; ++i) {
        for (std::int64_t c = 0; c < 128; ++c) {
          const bool inside = i < k && c < n;
          const double want = !inside      ? 0.0
                              : transposed ? columns.reference[static_cast<std::size_t>(c * k + i)]
                                           : rows.reference[static_cast<std::size_t>(i * n + c)];
          ASSERT_EQ(element(i, c), want) << "element " << i << ", " << c;
        }
      }
    }
  }
}

}  // namespace
}  // namespace neox
