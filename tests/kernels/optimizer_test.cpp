// AdamW, norms for clipping: the CPU backend against float64 references.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include <gtest/gtest.h>
#include <omp.h>

#include "core/base/rng.h"
#include "core/tensor/buffer.h"
#include "kernels/backend.h"

namespace neox {
namespace {

class OptimizerTest : public testing::Test {
 protected:
  OwnedTensor scalar(float value) {
    OwnedTensor t({1}, DType::f32);
    *t.tensor.ptr<float>() = value;
    return t;
  }
  OwnedTensor normal(std::int64_t n, const char* name, float scale) {
    OwnedTensor t({n}, DType::f32);
    const RngKey key = RngKey::for_tensor(3, name);
    float* data = t.tensor.ptr<float>();
    for (std::int64_t i = 0; i < n; ++i) {
      data[i] = scale * normal_at(key, static_cast<std::uint64_t>(i));
    }
    return t;
  }

  std::unique_ptr<Backend> backend = make_backend(Device{});
  std::unique_ptr<Stream> stream = make_stream(Device{});
};

struct ReferenceState {
  double p, m, v;
};

// The formula of kernels/optimizer.h, one element.
void reference_step(const AdamW& h, double grad, ReferenceState& s) {
  const double b1 = h.beta1, b2 = h.beta2, t = static_cast<double>(h.step);
  s.m = b1 * s.m + (1 - b1) * grad;
  s.v = b2 * s.v + (1 - b2) * grad * grad;
  const double mhat = s.m / (1 - std::pow(b1, t)), vhat = s.v / (1 - std::pow(b2, t));
  s.p -= h.lr * (mhat / (std::sqrt(vhat) + h.eps) + h.weight_decay * s.p);
}

TEST_F(OptimizerTest, AdamWFollowsTheFormula) {
  for (const std::int64_t n : {std::int64_t{1}, std::int64_t{37}, std::int64_t{40000}}) {
    OwnedTensor main = normal(n, "main", 0.5f), m({n}, DType::f32), v({n}, DType::f32);
    fill_zero(*stream, m);
    fill_zero(*stream, v);
    const OwnedTensor scale = scalar(0.25f);
    std::vector<ReferenceState> want(static_cast<std::size_t>(n));
    for (std::size_t i = 0; i < want.size(); ++i) want[i] = {main.tensor.ptr<float>()[i], 0, 0};
    AdamW hyper{.lr = 0.01f, .beta1 = 0.9f, .beta2 = 0.95f, .eps = 1e-8f, .weight_decay = 0.1f};
    for (hyper.step = 1; hyper.step <= 12; ++hyper.step) {
      const OwnedTensor grad = normal(n, hyper.step % 2 == 0 ? "even" : "odd", 2.0f);
      backend->optimizer_step(*stream, adamw_rule(hyper), grad, scale, main, {m, v}, {});
      for (std::size_t i = 0; i < want.size(); ++i) {
        reference_step(hyper, 0.25 * grad.tensor.ptr<float>()[i], want[i]);
      }
    }
    for (std::size_t i = 0; i < want.size(); ++i) {
      ASSERT_NEAR(main.tensor.ptr<float>()[i], want[i].p, 2e-6) << i << " of " << n;
      ASSERT_NEAR(m.tensor.ptr<float>()[i], want[i].m, 1e-6) << i << " of " << n;
      ASSERT_NEAR(v.tensor.ptr<float>()[i], want[i].v, 1e-6) << i << " of " << n;
    }
  }
}

TEST_F(OptimizerTest, AdamWLateStepsAndTinyGradients) {
  // Step 1 million: the corrections are 1. Gradients of 1e-6: eps matters and v is about 1e-12.
  const std::int64_t n = 64;
  OwnedTensor main = normal(n, "main", 1.0f), m({n}, DType::f32), v({n}, DType::f32);
  fill_zero(*stream, m);
  fill_zero(*stream, v);
  const OwnedTensor grad = normal(n, "grad", 1e-6f), scale = scalar(1.0f);
  const AdamW hyper{.lr = 0.1f, .eps = 1e-8f, .step = 1000000};
  const OwnedTensor before = normal(n, "main", 1.0f);
  backend->optimizer_step(*stream, adamw_rule(hyper), grad, scale, main, {m, v}, {});
  for (std::int64_t i = 0; i < n; ++i) {
    ReferenceState want{before.tensor.ptr<float>()[i], 0, 0};
    reference_step(hyper, grad.tensor.ptr<float>()[i], want);
    EXPECT_NEAR(main.tensor.ptr<float>()[i], want.p, 1e-6);
  }
}

TEST_F(OptimizerTest, AdamWRoundsTheComputeCopyToNearestEven) {
  const std::int64_t n = 20011;
  const OwnedTensor grad = normal(n, "grad", 1.0f), scale = scalar(1.0f);
  const AdamW hyper{.lr = 1e-3f, .weight_decay = 0.1f};
  const auto check = [&](auto zero) {
    using W = decltype(zero);
    OwnedTensor main = normal(n, "main", 1.0f), m({n}, DType::f32), v({n}, DType::f32);
    fill_zero(*stream, m);
    fill_zero(*stream, v);
    OwnedTensor weights({n}, dtype_of<W>);
    backend->optimizer_step(*stream, adamw_rule(hyper), grad, scale, main, {m, v}, weights);
    for (std::int64_t i = 0; i < n; ++i) {
      ASSERT_EQ(weights.tensor.ptr<W>()[i].bits, W(main.tensor.ptr<float>()[i]).bits) << i;
    }
  };
  check(bf16{});
  check(f16{});
}

TEST_F(OptimizerTest, SquareSumIsExactAndIndependentOfThreads) {
  for (const std::int64_t n : {std::int64_t{0}, std::int64_t{1}, std::int64_t{33},
                               std::int64_t{16385}, std::int64_t{1000003}}) {
    const OwnedTensor x = normal(n, "x", 1e-3f);
    long double want = 0;
    for (std::int64_t i = 0; i < n; ++i) {
      const long double value = x.tensor.ptr<float>()[i];
      want += value * value;
    }
    OwnedTensor out({1}, DType::f64);
    backend->square_sum(*stream, x, out, false);
    const double first = *out.tensor.ptr<double>();
    EXPECT_NEAR(first, static_cast<double>(want), 1e-13 * static_cast<double>(want));
    const int threads = omp_get_max_threads();
    for (const int count : {1, 2, 3, 5}) {
      omp_set_num_threads(count);
      backend->square_sum(*stream, x, out, false);
      EXPECT_EQ(*out.tensor.ptr<double>(), first) << count << " threads";
    }
    omp_set_num_threads(threads);
    backend->square_sum(*stream, x, out, true);
    EXPECT_DOUBLE_EQ(*out.tensor.ptr<double>(), 2 * first);
  }
}

TEST_F(OptimizerTest, SquareSumDoesNotOverflowAndShowsNan) {
  OwnedTensor x = normal(100, "x", 1.0f), out({1}, DType::f64);
  x.tensor.ptr<float>()[50] = 3e38f;
  backend->square_sum(*stream, x, out, false);
  EXPECT_NEAR(*out.tensor.ptr<double>(), 9e76, 1e70);
  x.tensor.ptr<float>()[50] = std::numeric_limits<float>::quiet_NaN();
  backend->square_sum(*stream, x, out, false);
  EXPECT_TRUE(std::isnan(*out.tensor.ptr<double>()));
}

TEST_F(OptimizerTest, ClipScale) {
  OwnedTensor sum({1}, DType::f64), scale({1}, DType::f32);
  const auto clipped = [&](double square_sum, float max_norm, float loss_scale = 1.0f) {
    *sum.tensor.ptr<double>() = square_sum;
    backend->clip_scale(*stream, sum, max_norm, loss_scale, scale);
    return *scale.tensor.ptr<float>();
  };
  EXPECT_FLOAT_EQ(clipped(16.0, 1.0f), 0.25f);
  EXPECT_EQ(clipped(0.25, 1.0f), 1.0f);
  EXPECT_EQ(clipped(0.0, 1.0f), 1.0f);
  EXPECT_EQ(clipped(1e30, 0.0f), 1.0f);
  EXPECT_EQ(clipped(1e30, -1.0f), 1.0f);
  // A power of two only moves the exponent.
  for (const int power : {1, 12, 64}) {
    const float loss_scale = std::ldexp(1.0f, power);
    const double squares = double{loss_scale} * loss_scale;
    EXPECT_EQ(clipped(10.7 * squares, 1.0f, loss_scale), clipped(10.7, 1.0f) / loss_scale);
    EXPECT_EQ(clipped(0.25 * squares, 1.0f, loss_scale), 1.0f / loss_scale);
    EXPECT_EQ(clipped(10.7 * squares, 0.0f, loss_scale), 1.0f / loss_scale);
  }
  EXPECT_FLOAT_EQ(clipped(16.0 * 9, 1.0f, 3.0f), 0.25f / 3);
  EXPECT_TRUE(std::isnan(clipped(std::numeric_limits<double>::quiet_NaN(), 1.0f)));
  EXPECT_EQ(clipped(std::numeric_limits<double>::infinity(), 1.0f), 0.0f);
}

TEST(MakeBackend, CudaIsRefusedClearly) {
  try {
    make_backend(Device{DeviceKind::cuda, 0});
    FAIL() << "no exception";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("cuda:0"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace neox
