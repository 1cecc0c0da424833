// CUDA's optimizer steps against the references of the operator harness, and AdamW, sums of squares
// and hashes on sizes and alignments that its small cases don't have, against the CPU engine.

#include <random>

#include "tests/gpu/device_matrix.h"
#include "tests/gpu/gpu_support.h"
#include "tests/kernels/op_cases.h"

namespace neox::testing {
namespace {

struct Form {
  std::int64_t n;
  std::int64_t skip;  // elements behind an aligned address
};

std::vector<Form> forms(Device device) {
  std::vector<Form> all = {{1, 0}, {8, 0}, {4099, 0}, {4096, 3}, {70001, 0}, {70000, 4}};
  if (device == kGpu) {
    all.push_back({20000003, 0});
    all.push_back({20000000, 1});
  }
  return all;
}

void check_adamw(Device device) {
  const auto cpu_stream = make_stream(Device{}), stream = make_stream(device);
  for (const DType t : {DType::f32, DType::bf16, DType::f16}) {
    for (const Form& form : forms(device)) {
      const auto compute = [&](const Backend& ops, Device on, Stream& s) {
        const auto array = [&](DType type) { return Matrix(on, s, {form.n}, type, form.skip); };
        Matrix grad = array(DType::f32), main = array(DType::f32), m = array(DType::f32),
               v = array(DType::f32), weights = array(t);
        grad.write(normal_values(form.n, 1));
        main.write(normal_values(form.n, 2));
        m.write(normal_values(form.n, 3, 0.1));
        Array second = normal_values(form.n, 4, 0.1);
        for (double& value : second) value *= value;
        v.write(second);
        const OwnedTensor scale = on_device<float>(on, s, {0.5f}, {1});
        ops.optimizer_step(s, adamw_rule({1e-2f, 0.9f, 0.95f, 1e-8f, 0.1f, 7}), grad, scale, main,
                           {m, v}, t == DType::f32 ? Tensor() : Tensor(weights));
        std::vector<Array> results = {main.read(), m.read(), v.read()};
        if (t != DType::f32) results.push_back(weights.read());
        return results;
      };
      const auto want = compute(cpu_backend(), Device{}, *cpu_stream);
      const auto got = compute(cuda_kernels_on(device), device, *stream);
      for (std::size_t i = 0; i < want.size(); ++i) {
        ASSERT_EQ(got[i].size(), want[i].size()) << "wrote outside of its result";
        EXPECT_LT(error_of(got[i], want[i]), i < 3 ? 1e-6 : 1e-2)
            << name_of(t) << " " << form.n << " skip " << form.skip << " array " << i;
      }
    }
  }
}

// Three states are the most there are; the gradient's memory takes the result, as in LAMB.
void check_three_states(Device device) {
  const auto cpu_stream = make_stream(Device{}), stream = make_stream(device);
  const UpdateRule madgrad = MadgradRule{0.05f, 1e-6f, 0.25f, 0.001f, false};
  const UpdateRule lamb = LambUpdateRule{adamw_rule({1.0f, 0.9f, 0.95f, 1e-6f, 0.0f, 7}), 0.1f};
  for (const bool in_place : {false, true}) {
    for (const Form& form : forms(device)) {
      const auto compute = [&](const Backend& ops, Device on, Stream& s) {
        const auto array = [&](std::uint64_t seed, bool squares) {
          Matrix matrix(on, s, {form.n}, DType::f32, form.skip);
          Array values = normal_values(form.n, seed);
          for (double& value : values) value = squares ? value * value + 0.01 : value;
          matrix.write(values);
          return matrix;
        };
        Matrix grad = array(1, false), main = array(2, false), a = array(3, !in_place),
               b = array(4, in_place), c = array(5, false);
        const OwnedTensor scale = on_device<float>(on, s, {0.5f}, {1});
        ops.optimizer_step(s, in_place ? lamb : madgrad, grad, scale,
                           in_place ? Tensor(grad) : Tensor(main), {a, b, c}, {});
        return std::vector<Array>{grad.read(), main.read(), a.read(), b.read(), c.read()};
      };
      const auto want = compute(cpu_backend(), Device{}, *cpu_stream);
      const auto got = compute(cuda_kernels_on(device), device, *stream);
      for (std::size_t i = 0; i < want.size(); ++i) {
        ASSERT_EQ(got[i].size(), want[i].size()) << "wrote outside of its result";
        EXPECT_LT(error_of(got[i], want[i]), 5e-6)
            << form.n << " skip " << form.skip << " array " << i << " in place " << in_place;
      }
    }
  }
}

void check_square_sum(Device device) {
  const auto cpu_stream = make_stream(Device{}), stream = make_stream(device);
  for (const Form& form : forms(device)) {
    const auto compute = [&](const Backend& ops, Device on, Stream& s, std::int64_t skip) {
      Matrix x(on, s, {form.n}, DType::f32, skip);
      x.write(normal_values(form.n, 1, 3.0));
      const OwnedTensor apart = on_device<double>(on, s, {0.0}, {1});
      const OwnedTensor added = on_device<double>(on, s, {0.1}, {1});
      ops.square_sum(s, x, apart, false);
      ops.square_sum(s, x, added, true);
      return std::vector<double>{from_device<double>(s, apart)[0],
                                 from_device<double>(s, added)[0]};
    };
    const auto run = [&] { return compute(cuda_kernels_on(device), device, *stream, form.skip); };
    const auto want = compute(cpu_backend(), Device{}, *cpu_stream, 0), got = run();
    EXPECT_NEAR(got[0] / want[0], 1.0, 1e-12);
    EXPECT_EQ(got[1], 0.1 + got[0]) << "accumulating is one addition";
    EXPECT_EQ(orders_that_differ<std::vector<double>>(got, run), 0);
    // The order of the sum depends on n only, not on where the memory starts.
    EXPECT_EQ(compute(cuda_kernels_on(device), device, *stream, form.skip + 1), got);
  }
}

void check_hash(Device device) {
  const auto cpu_stream = make_stream(Device{}), stream = make_stream(device);
  std::mt19937_64 random(5);
  std::vector<std::int64_t> sizes = {0, 1, 7, 8, 9, 16, 17, 1000, 65535, 65536, 300001};
  if (device == kGpu) sizes.push_back(100000007);
  for (const std::int64_t bytes : sizes) {
    for (const std::int64_t skip : {0, 1, 8, 16}) {
      std::vector<std::uint8_t> content(static_cast<std::size_t>(bytes + skip));
      for (auto& byte : content) byte = static_cast<std::uint8_t>(random());
      const auto compute = [&](const Backend& ops, Device on, Stream& s) {
        const OwnedTensor all = on_device(on, s, content, {bytes + skip});
        const Tensor x = all.tensor.slice(skip, skip + bytes);
        const OwnedTensor out = on_device<std::uint64_t>(on, s, {123}, {1});
        ops.hash(s, x, out, false);
        const auto alone = from_device<std::uint64_t>(s, out)[0];
        ops.hash(s, x, out, true);
        return std::pair(alone, from_device<std::uint64_t>(s, out)[0]);
      };
      EXPECT_EQ(compute(cuda_kernels_on(device), device, *stream),
                compute(cpu_backend(), Device{}, *cpu_stream))
          << bytes << " bytes, skip " << skip;
    }
  }
}

void check_not_a_number(Device device) {
  const auto stream = make_stream(device);
  for (const double norm : {std::nan(""), std::numeric_limits<double>::infinity()}) {
    const OwnedTensor sum = on_device<double>(device, *stream, {norm}, {1});
    const OwnedTensor scale = on_device<float>(device, *stream, {-1.0f}, {1});
    cuda_kernels_on(device).clip_scale(*stream, sum, 1.0f, 1.0f, scale);
    const float got = from_device<float>(*stream, scale)[0];
    EXPECT_TRUE(std::isnan(norm) ? std::isnan(got) : got == 0.0f) << got;
  }
}

std::vector<OpCase> cases() {
  std::vector<OpCase> all;
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    for (const auto family : {optimizer_cases, factored_cases}) {
      for (OpCase& test : family(dtype, CaseSize::small)) all.push_back(std::move(test));
    }
  }
  return all;
}

class CudaOptimizerCase : public OnGpu, public ::testing::WithParamInterface<OpCase> {};
class SimulatedOptimizerCase : public ::testing::TestWithParam<OpCase> {};
TEST_P(CudaOptimizerCase, MatchesTheReference) {
  EXPECT_EQ(check_value(cuda_kernels_on(kGpu), GetParam()), "");
}
TEST_P(SimulatedOptimizerCase, MatchesTheReference) {
  EXPECT_EQ(check_value(cuda_kernels_on(kSimulated), GetParam()), "");
}
std::string id_of(const ::testing::TestParamInfo<OpCase>& info) {
  return info.param.id();
}
INSTANTIATE_TEST_SUITE_P(Optimizer, CudaOptimizerCase, ::testing::ValuesIn(cases()), id_of);
INSTANTIATE_TEST_SUITE_P(Optimizer, SimulatedOptimizerCase, ::testing::ValuesIn(cases()), id_of);

class CudaOptimizerAgainstCpu : public OnGpu {};
TEST_F(CudaOptimizerAgainstCpu, AdamW) {
  check_adamw(kGpu);
}
TEST_F(CudaOptimizerAgainstCpu, ThreeStates) {
  check_three_states(kGpu);
}
TEST_F(CudaOptimizerAgainstCpu, SquareSum) {
  check_square_sum(kGpu);
}
TEST_F(CudaOptimizerAgainstCpu, Hash) {
  check_hash(kGpu);
}
TEST_F(CudaOptimizerAgainstCpu, NormsThatAreNoNumbers) {
  check_not_a_number(kGpu);
}
TEST(SimulatedOptimizerAgainstCpu, AdamW) {
  check_adamw(kSimulated);
}
TEST(SimulatedOptimizerAgainstCpu, ThreeStates) {
  check_three_states(kSimulated);
}
TEST(SimulatedOptimizerAgainstCpu, SquareSum) {
  check_square_sum(kSimulated);
}
TEST(SimulatedOptimizerAgainstCpu, Hash) {
  check_hash(kSimulated);
}
TEST(SimulatedOptimizerAgainstCpu, NormsThatAreNoNumbers) {
  check_not_a_number(kSimulated);
}

}  // namespace
}  // namespace neox::testing
