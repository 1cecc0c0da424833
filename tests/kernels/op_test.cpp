// Every operator of every backend of this machine: forward against a float64 reference, backward
// against its finite differences.

#include <gtest/gtest.h>

#include "tests/kernels/op_cases.h"

namespace neox::testing {
namespace {

std::vector<OpCase> cases_with_backward() {
  std::vector<OpCase> cases = all_cases(CaseSize::small);
  std::erase_if(cases, [](const OpCase& test) { return !test.backward; });
  return cases;
}

const Backend& cpu() {
  static const std::unique_ptr<Backend> backend = make_backend(Device{});
  return *backend;
}

class Value : public ::testing::TestWithParam<OpCase> {};
class GradientOf : public ::testing::TestWithParam<OpCase> {};

TEST_P(Value, MatchesTheReference) {
  EXPECT_EQ(check_value(cpu(), GetParam()), "");
}
TEST_P(GradientOf, MatchesFiniteDifferences) {
  EXPECT_EQ(check_gradient(cpu(), GetParam()), "");
}

std::string id_of(const ::testing::TestParamInfo<OpCase>& info) {
  return info.param.id();
}
INSTANTIATE_TEST_SUITE_P(Cpu, Value, ::testing::ValuesIn(all_cases(CaseSize::small)), id_of);
INSTANTIATE_TEST_SUITE_P(Cpu, GradientOf, ::testing::ValuesIn(cases_with_backward()), id_of);

TEST(OpHarness, TheCpuSupportsEveryCase) {
  for (const OpCase& test : all_cases(CaseSize::small)) {
    std::string why;
    EXPECT_TRUE(is_supported(cpu(), test, &why)) << test.id() << ": " << why;
  }
}

// A harness that cannot fail proves nothing: each kind of mistake must show.
OpCase doubling_case() {
  OpCase test{"double", "of x", DType::f32};
  test.inputs = {{"x", {40}, DType::f32, some_values({40}, 1)}};
  test.outputs = {{"y", {40}, DType::f32, 1e-6}};
  test.gradients = {{"x", DType::f32, 1e-6}};
  test.forward = [](const Backend&, Stream&, const OpTensors& v) {
    for (std::size_t i = 0; i < 40; ++i) v["y"].ptr<float>()[i] = 2 * v["x"].ptr<float>()[i];
  };
  test.backward = [](const Backend&, Stream&, const OpTensors& v) {
    for (std::size_t i = 0; i < 40; ++i) v["d_x"].ptr<float>()[i] = 2 * v["d_y"].ptr<float>()[i];
  };
  test.reference = [](const Arrays& in, Arrays& out) {
    for (std::size_t i = 0; i < 40; ++i) out["y"][i] = 2 * in.at("x")[i];
  };
  return test;
}

TEST(OpHarness, AcceptsWhatIsRight) {
  EXPECT_EQ(check_value(cpu(), doubling_case()), "");
  EXPECT_EQ(check_gradient(cpu(), doubling_case()), "");
}

TEST(OpHarness, FindsWrongMissingAndStrayWrites) {
  const OpCase right = doubling_case();
  const auto with_forward = [&](auto change) {
    OpCase wrong = right;
    wrong.forward = [&right, change](const Backend& b, Stream& s, const OpTensors& v) {
      right.forward(b, s, v);
      change(v["y"].ptr<float>());
    };
    return check_value(cpu(), wrong);
  };
  EXPECT_NE(with_forward([](float* y) { y[17] += 1e-4f; }), "");
  EXPECT_NE(with_forward([](float* y) { y[39] = std::numeric_limits<float>::quiet_NaN(); }), "");
  EXPECT_NE(with_forward([](float* y) { y[40] = 1.0f; }), "");
  EXPECT_NE(with_forward([](float* y) { y[-1] = 1.0f; }), "");
  OpCase wrong = right;
  wrong.backward = [](const Backend&, Stream&, const OpTensors& v) {
    for (std::size_t i = 0; i < 40; ++i) v["d_x"].ptr<float>()[i] = v["d_y"].ptr<float>()[i];
  };
  EXPECT_NE(check_gradient(cpu(), wrong), "");
  wrong.backward = [](const Backend&, Stream&, const OpTensors&) {};
  EXPECT_NE(check_gradient(cpu(), wrong), "");
  wrong.backward = [](const Backend&, Stream&, const OpTensors&) { fail("no such operator"); };
  EXPECT_FALSE(is_supported(cpu(), wrong));
}

}  // namespace
}  // namespace neox::testing
