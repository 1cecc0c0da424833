// The operator harness's cases on the families whose kernels need thread blocks: on the GPU where
// there is one, and everywhere on the simulated device.

#include "tests/gpu/gpu_support.h"
#include "tests/kernels/op_cases.h"

namespace neox::testing {
namespace {

std::vector<OpCase> cases(bool with_backward) {
  std::vector<OpCase> all;
  for (const auto family : {norm_cases, loss_cases, optimizer_cases, hash_cases}) {
    for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
      for (OpCase& test : family(dtype, CaseSize::small)) {
        if (!with_backward || test.backward) all.push_back(std::move(test));
      }
    }
  }
  return all;
}

class CudaBlockValue : public OnGpu, public ::testing::WithParamInterface<OpCase> {};
class CudaBlockGradient : public OnGpu, public ::testing::WithParamInterface<OpCase> {};
class SimulatedBlockValue : public ::testing::TestWithParam<OpCase> {};
class SimulatedBlockGradient : public ::testing::TestWithParam<OpCase> {};

TEST_P(CudaBlockValue, MatchesTheReference) {
  EXPECT_EQ(check_value(cuda_kernels_on(kGpu), GetParam()), "");
}
TEST_P(CudaBlockGradient, MatchesFiniteDifferences) {
  EXPECT_EQ(check_gradient(cuda_kernels_on(kGpu), GetParam()), "");
}
TEST_P(SimulatedBlockValue, MatchesTheReference) {
  EXPECT_EQ(check_value(cuda_kernels_on(kSimulated), GetParam()), "");
}
TEST_P(SimulatedBlockGradient, MatchesFiniteDifferences) {
  EXPECT_EQ(check_gradient(cuda_kernels_on(kSimulated), GetParam()), "");
}

std::string id_of(const ::testing::TestParamInfo<OpCase>& info) {
  return info.param.id();
}
INSTANTIATE_TEST_SUITE_P(Blocks, CudaBlockValue, ::testing::ValuesIn(cases(false)), id_of);
INSTANTIATE_TEST_SUITE_P(Blocks, CudaBlockGradient, ::testing::ValuesIn(cases(true)), id_of);
INSTANTIATE_TEST_SUITE_P(Blocks, SimulatedBlockValue, ::testing::ValuesIn(cases(false)), id_of);
INSTANTIATE_TEST_SUITE_P(Blocks, SimulatedBlockGradient, ::testing::ValuesIn(cases(true)), id_of);

}  // namespace
}  // namespace neox::testing
