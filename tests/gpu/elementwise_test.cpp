// The elementwise CUDA kernels: on the GPU where there is one, and everywhere their own code run on
// the host, thread by thread. Against the float64 references of the operator harness, and against
// the CPU engine on shapes and alignments that the harness's small cases don't have.

#include <cmath>
#include <functional>
#include <limits>

#include "tests/gpu/device_matrix.h"
#include "tests/gpu/gpu_support.h"
#include "tests/kernels/op_cases.h"

namespace neox::testing {
namespace {

// ---- the harness's cases ---------------------------------------------------------------------

std::vector<OpCase> cases(bool with_backward) {
  std::vector<OpCase> all;
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    for (OpCase& test : elementwise_cases(dtype, CaseSize::small)) {
      if (!with_backward || test.backward) all.push_back(std::move(test));
    }
  }
  return all;
}

class CudaValue : public OnGpu, public ::testing::WithParamInterface<OpCase> {};
class CudaGradient : public OnGpu, public ::testing::WithParamInterface<OpCase> {};
class SimulatedValue : public ::testing::TestWithParam<OpCase> {};
class SimulatedGradient : public ::testing::TestWithParam<OpCase> {};

TEST_P(CudaValue, MatchesTheReference) {
  EXPECT_EQ(check_value(cuda_kernels_on(kGpu), GetParam()), "");
}
TEST_P(CudaGradient, MatchesFiniteDifferences) {
  EXPECT_EQ(check_gradient(cuda_kernels_on(kGpu), GetParam()), "");
}
TEST_P(SimulatedValue, MatchesTheReference) {
  EXPECT_EQ(check_value(cuda_kernels_on(kSimulated), GetParam()), "");
}
TEST_P(SimulatedGradient, MatchesFiniteDifferences) {
  EXPECT_EQ(check_gradient(cuda_kernels_on(kSimulated), GetParam()), "");
}

std::string id_of(const ::testing::TestParamInfo<OpCase>& info) {
  return info.param.id();
}
INSTANTIATE_TEST_SUITE_P(Elementwise, CudaValue, ::testing::ValuesIn(cases(false)), id_of);
INSTANTIATE_TEST_SUITE_P(Elementwise, CudaGradient, ::testing::ValuesIn(cases(true)), id_of);
INSTANTIATE_TEST_SUITE_P(Elementwise, SimulatedValue, ::testing::ValuesIn(cases(false)), id_of);
INSTANTIATE_TEST_SUITE_P(Elementwise, SimulatedGradient, ::testing::ValuesIn(cases(true)), id_of);

// ---- against the CPU engine ------------------------------------------------------------------

/// What an operator made of some inputs.
using Compute = std::function<Array(const Backend&, Device, Stream&)>;

void expect_as_cpu(Device device, DType dtype, const Compute& compute, const std::string& what) {
  const auto cpu_stream = make_stream(Device{}), stream = make_stream(device);
  const Array want = compute(cpu_backend(), Device{}, *cpu_stream);
  const Array got = compute(cuda_kernels_on(device), device, *stream);
  ASSERT_EQ(got.size(), want.size()) << what << ": wrote outside of its result";
  EXPECT_LT(error_of(got, want), dtype == DType::f32 ? 1e-5 : 1e-2) << what;
}

struct Form {
  Shape shape;
  std::int64_t skip;  // elements behind an aligned address
};

/// Whole vectors, rows shorter and longer than a block, unaligned starts, several grid strides.
std::vector<Form> forms(Device device) {
  std::vector<Form> all = {{{1, 1}, 0},     {{3, 8}, 0},    {{3, 8}, 1},      {{70, 256}, 0},
                           {{5, 4104}, 0},  {{5, 4104}, 8}, {{5, 4104}, 3},   {{1, 4099}, 0},
                           {{1000, 40}, 0}, {{2, 9001}, 0}, {{1, 120000}, 0}, {{777, 136}, 1}};
  if (device == kGpu) {
    all.push_back({{4100, 2048}, 0});
    all.push_back({{70000, 72}, 0});  // more rows than a grid's y axis holds
    all.push_back({{1, 9000001}, 1});
  }
  return all;
}

const std::vector<DType> kDTypes = {DType::f32, DType::bf16, DType::f16};

void check_dropout_sums(Device device) {
  for (const DType dtype : kDTypes) {
    for (const Form& form : forms(device)) {
      const std::int64_t n = form.shape.numel();
      const Array r = normal_values(n, 1), a = normal_values(n, 2), b = normal_values(n, 3);
      // Samples beyond 2^31 elements: the index has 64 bits.
      const Dropout da{0.1f, RngKey{91}, 1 << 20, 3, 1, 4}, db{0.5f, RngKey{92}, 0, 7, 0, 7};
      const auto compute = [&](const Backend& ops, Device on, Stream& s) {
        Matrix rm(on, s, form.shape, dtype, form.skip), am(on, s, form.shape, dtype, form.skip),
            bm(on, s, form.shape, dtype, form.skip), y(on, s, form.shape, dtype, form.skip),
            alone(on, s, form.shape, dtype, form.skip);
        rm.write(r);
        am.write(a);
        bm.write(b);
        ops.residual_add(s, rm, am, da, bm, db, y);
        ops.dropout(s, am, da, alone);
        Array result = y.read();
        const auto append = [&](const Array& more) {
          result.insert(result.end(), more.begin(), more.end());
        };
        append(alone.read());
        for (const Dropout& d : {Dropout{}, db}) {  // without a residual; y may be a
          ops.residual_add(s, {}, am, d, bm, Dropout{}, y);
          append(y.read());
          ops.residual_add(s, {}, am, d, {}, Dropout{}, am);
          append(am.read());
        }
        return result;
      };
      expect_as_cpu(device, dtype, compute,
                    fmt::format("{} {} skip {}", name_of(dtype), form.shape.str(), form.skip));
    }
  }
}

void check_gated(Device device) {
  for (const DType dtype : kDTypes) {
    for (const Form& form : forms(device)) {
      const Shape both{form.shape[0], 2 * form.shape[1]};
      const Array x = normal_values(both.numel(), 4, 2.0), d = normal_values(form.shape.numel(), 5);
      const auto compute = [&](const Backend& ops, Device on, Stream& s) {
        Matrix xm(on, s, both, dtype, form.skip), dm(on, s, form.shape, dtype, form.skip),
            y(on, s, form.shape, dtype, form.skip), dx(on, s, both, dtype, form.skip);
        xm.write(x);
        dm.write(d);
        ops.gated_activation(s, Activation::gelu, xm, y);
        ops.gated_activation_backward(s, Activation::gelu, xm, dm, dx);
        Array result = y.read();
        const Array more = dx.read();
        result.insert(result.end(), more.begin(), more.end());
        return result;
      };
      expect_as_cpu(device, dtype, compute,
                    fmt::format("{} {} skip {}", name_of(dtype), form.shape.str(), form.skip));
    }
  }
}

void check_casts_and_sums(Device device) {
  for (const DType from : kDTypes) {
    for (const DType to : kDTypes) {
      for (const Form& form : forms(device)) {
        const Array x = normal_values(form.shape.numel(), 6, 30.0);
        const auto compute = [&](const Backend& ops, Device on, Stream& s) {
          Matrix xm(on, s, form.shape, from, form.skip), y(on, s, form.shape, to, form.skip);
          xm.write(x);
          ops.cast(s, xm, y);
          if (from == to || from == DType::f32) ops.add_into(s, xm, y);
          return y.read();
        };
        expect_as_cpu(device, to, compute,
                      fmt::format("{} to {} {} skip {}", name_of(from), name_of(to),
                                  form.shape.str(), form.skip));
      }
    }
  }
}

/// Infinities, NaN and magnitudes that overflow exp.
void check_extremes(Device device) {
  constexpr double kInf = std::numeric_limits<double>::infinity();
  const Array x = {0.0,
                   -0.0,
                   1e-30,
                   -1e-30,
                   5.0,
                   -5.0,
                   11.0,
                   -11.0,
                   17.0,
                   -17.0,
                   90.0,
                   -90.0,
                   200.0,
                   -200.0,
                   6e4,
                   -6e4,
                   kInf,
                   -kInf,
                   std::numeric_limits<double>::quiet_NaN()};
  const Shape shape{1, static_cast<std::int64_t>(x.size())};
  for (const auto kind : {Activation::gelu, Activation::gelu_tanh, Activation::silu,
                          Activation::relu, Activation::squared_relu, Activation::mish,
                          Activation::softsign, Activation::sigmoid, Activation::identity}) {
    const auto compute = [&](const Backend& ops, Device on, Stream& s) {
      Array result;
      for (const double value : x) {  // one at a time: error_of compares with the mean magnitude
        Matrix xm(on, s, {1, 1}, DType::f32, 0), y(on, s, {1, 1}, DType::f32, 0),
            d(on, s, {1, 1}, DType::f32, 0), dx(on, s, {1, 1}, DType::f32, 0);
        xm.write({value});
        d.write({1.0});
        ops.activation(s, kind, xm, y);
        ops.activation_backward(s, kind, xm, d, dx);
        // Values too small for f32's normal numbers may be 0.
        for (const double v : {y.read()[0], dx.read()[0]}) {
          result.push_back(std::abs(v) < 1e-37 ? 0.0 : v);
        }
      }
      return result;
    };
    const auto cpu_stream = make_stream(Device{}), stream = make_stream(device);
    const Array want = compute(cpu_backend(), Device{}, *cpu_stream);
    const Array got = compute(cuda_kernels_on(device), device, *stream);
    for (std::size_t i = 0; i < want.size(); ++i) {
      EXPECT_LT(error_of({got[i]}, {want[i]}), 1e-5)
          << "activation " << static_cast<int>(kind) << (i % 2 == 1 ? " slope" : " value") << " at "
          << x[i / 2] << ": " << got[i] << ", the CPU engine has " << want[i];
    }
  }
}

class CudaAgainstCpu : public OnGpu {};
TEST_F(CudaAgainstCpu, DropoutSums) {
  check_dropout_sums(kGpu);
}
TEST_F(CudaAgainstCpu, GatedActivations) {
  check_gated(kGpu);
}
TEST_F(CudaAgainstCpu, CastsAndSums) {
  check_casts_and_sums(kGpu);
}
TEST_F(CudaAgainstCpu, ExtremeActivations) {
  check_extremes(kGpu);
}
TEST(SimulatedAgainstCpu, DropoutSums) {
  check_dropout_sums(kSimulated);
}
TEST(SimulatedAgainstCpu, GatedActivations) {
  check_gated(kSimulated);
}
TEST(SimulatedAgainstCpu, CastsAndSums) {
  check_casts_and_sums(kSimulated);
}
TEST(SimulatedAgainstCpu, ExtremeActivations) {
  check_extremes(kSimulated);
}

TEST(CudaElementwise, RefusesWrongDtypesAndStreams) {
  const auto stream = make_stream(kSimulated);
  const OwnedTensor f32({4}, DType::f32, kSimulated), half({4}, DType::bf16, kSimulated);
  const Backend& ops = cuda_kernels_on(kSimulated);
  EXPECT_THROW(ops.activation(*stream, Activation::relu, f32, half), Error);
  EXPECT_THROW(ops.add_into(*stream, half, f32), Error);
  const Tensor elsewhere(f32.tensor.data, {4}, DType::f32, kGpu);
  EXPECT_THROW(ops.activation(*stream, Activation::relu, elsewhere, f32), Error);
}

}  // namespace
}  // namespace neox::testing
