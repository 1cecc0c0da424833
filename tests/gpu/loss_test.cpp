// The CUDA losses on shapes and alignments that the harness's small cases don't have, against the
// CPU engine.

#include <limits>

#include "tests/gpu/device_matrix.h"
#include "tests/gpu/gpu_support.h"

namespace neox::testing {
namespace {

struct Form {
  std::int64_t rows, columns, valid;
  std::int64_t skip;  // elements behind an aligned address
};

std::vector<Form> forms(Device device) {
  std::vector<Form> all = {{5, 1024, 1000, 0}, {5, 1024, 1000, 1}, {3, 50304, 50257, 0},
                           {2, 8200, 8200, 8}, {2, 8201, 8193, 0}, {9, 8, 5, 0},
                           {3, 256, 0, 0}};
  if (device == kGpu) all.push_back({1024, 50304, 50257, 0});
  return all;
}

struct Results {
  Array losses, gradients, evaluated, stats;
  bool operator==(const Results&) const = default;
};

/// All columns in one call, or (ranks > 1) cut in equal parts.
Results compute(const Backend& ops, Device on, Stream& s, const Form& form, DType logits_type,
                DType gradient_type, bool parts) {
  std::vector<std::int32_t> labels;
  std::vector<float> weights;
  for (std::int64_t r = 0; r < form.rows; ++r) {
    const bool counts = r % 4 != 1;
    labels.push_back(
        counts ? static_cast<std::int32_t>(r * 7919 % std::max<std::int64_t>(1, form.valid))
               : -1000000000);
    weights.push_back(counts ? 0.25f * static_cast<float>(r + 1) : 0.0f);
  }
  const OwnedTensor label = on_device(on, s, labels, {form.rows});
  const OwnedTensor weight = on_device(on, s, weights, {form.rows});
  const OwnedTensor stats({1, form.rows, 2}, DType::f64, on);
  const Shape shape{form.rows, form.columns};
  Matrix logits(on, s, shape, logits_type, form.skip), losses(on, s, {form.rows}, DType::f32, 1),
      gradients(on, s, shape, gradient_type, form.skip);
  logits.write(normal_values(shape.numel(), 1, 3.0));
  Results results;
  const auto compute_to = [&](Tensor to) {
    if (!parts) {
      ops.cross_entropy(s, logits, label, weight, form.valid, losses, to);
      return;
    }
    ops.cross_entropy_partial(s, logits, label, weight, 0, form.valid,
                              stats.tensor.reshape({form.rows, 2}));
    ops.cross_entropy_combine(s, logits, label, weight, 0, form.valid, stats, losses, to);
  };
  compute_to({});
  results.evaluated = losses.read();
  if (parts) results.stats = from_device<double>(s, stats);
  if (logits_type == gradient_type) {  // in place
    compute_to(logits);
    results.gradients = logits.read();
  } else {
    compute_to(gradients);
    results.gradients = gradients.read();
  }
  results.losses = losses.read();
  return results;
}

void check(Device device, DType logits, DType gradient) {
  const auto cpu_stream = make_stream(Device{}), stream = make_stream(device);
  for (const Form& form : forms(device)) {
    SCOPED_TRACE(fmt::format("{} to {} {}x{} of {} skip {}", name_of(logits), name_of(gradient),
                             form.rows, form.valid, form.columns, form.skip));
    const auto on = [&](const Backend& ops, Device where, Stream& s, bool parts) {
      return compute(ops, where, s, form, logits, gradient, parts);
    };
    const Results want = on(cpu_backend(), Device{}, *cpu_stream, true);
    const auto run = [&] { return on(cuda_kernels_on(device), device, *stream, true); };
    const Results got = run(), whole = on(cuda_kernels_on(device), device, *stream, false);
    ASSERT_EQ(got.losses.size(), want.losses.size()) << "wrote outside of its result";
    ASSERT_EQ(got.gradients.size(), want.gradients.size()) << "wrote outside of its result";
    EXPECT_LT(error_of(got.stats, want.stats), 1e-6);
    if (form.valid > 0) {
      EXPECT_LT(error_of(got.losses, want.losses), 1e-6);
      EXPECT_LT(error_of(got.gradients, want.gradients), gradient == DType::f32 ? 1e-5 : 1e-2);
    }
    // One rank's parts make the same bits as the whole call, evaluation the same as training.
    EXPECT_EQ(got.losses, whole.losses);
    EXPECT_EQ(got.losses, got.evaluated);
    EXPECT_EQ(got.gradients, whole.gradients);
    EXPECT_EQ(orders_that_differ<Results>(got, run), 0);
  }
}

/// Rows with infinities and not-a-number.
void check_extremes(Device device) {
  constexpr double kInf = std::numeric_limits<double>::infinity();
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const Array rows = {-kInf, 1.0,   2.0, -kInf, -kInf, 3.0,   //
                      1.0,   2.0,   nan, 4.0,   5.0,   6.0,   //
                      1.0,   kInf,  0.0, 4.0,   5.0,   6.0,   //
                      1e4,   -1e4,  0.0, 1e4,   9e3,   -9e3,  //
                      3e38,  -3e38, 0.0, 2e38,  1e38,  -1e38};
  const auto compute = [&](const Backend& ops, Device on, Stream& s) {
    Array all;
    for (std::size_t row = 0; row < 5; ++row) {
      Matrix logits(on, s, {1, 6}, DType::f32, 0), losses(on, s, {1}, DType::f32, 0),
          d(on, s, {1, 6}, DType::f32, 0);
      logits.write(Array(rows.begin() + static_cast<std::ptrdiff_t>(row) * 6,
                         rows.begin() + static_cast<std::ptrdiff_t>(row + 1) * 6));
      const OwnedTensor label = on_device<std::int32_t>(on, s, {2}, {1});
      const OwnedTensor weight = on_device<float>(on, s, {1.0f}, {1});
      ops.cross_entropy(s, logits, label, weight, 6, losses, d);
      for (const double v : losses.read()) all.push_back(v);
      for (const double v : d.read()) all.push_back(std::abs(v) < 1e-37 ? 0.0 : v);
    }
    return all;
  };
  const auto cpu_stream = make_stream(Device{}), stream = make_stream(device);
  const Array want = compute(cpu_backend(), Device{}, *cpu_stream);
  const Array got = compute(cuda_kernels_on(device), device, *stream);
  for (std::size_t i = 0; i < want.size(); ++i) {
    EXPECT_LT(error_of({got[i]}, {want[i]}), 1e-5)
        << i << ": " << got[i] << ", the CPU engine has " << want[i];
  }
}

using Types = std::pair<DType, DType>;  // of logits and gradients
class CudaLossAgainstCpu : public OnGpu, public ::testing::WithParamInterface<Types> {};
class SimulatedLossAgainstCpu : public ::testing::TestWithParam<Types> {};
TEST_P(CudaLossAgainstCpu, AllShapes) {
  check(kGpu, GetParam().first, GetParam().second);
}
TEST_P(SimulatedLossAgainstCpu, AllShapes) {
  check(kSimulated, GetParam().first, GetParam().second);
}
const auto kTypes = ::testing::Values(
    Types{DType::f32, DType::f32}, Types{DType::f32, DType::bf16}, Types{DType::f32, DType::f16},
    Types{DType::bf16, DType::bf16}, Types{DType::bf16, DType::f32}, Types{DType::f16, DType::f16},
    Types{DType::f16, DType::f32});
std::string id_of(const ::testing::TestParamInfo<Types>& info) {
  return fmt::format("{}_to_{}", name_of(info.param.first), name_of(info.param.second));
}
INSTANTIATE_TEST_SUITE_P(Loss, CudaLossAgainstCpu, kTypes, id_of);
INSTANTIATE_TEST_SUITE_P(Loss, SimulatedLossAgainstCpu, kTypes, id_of);

class CudaLossOn : public OnGpu {};
TEST_F(CudaLossOn, Extremes) {
  check_extremes(kGpu);
}
TEST(SimulatedLoss, Extremes) {
  check_extremes(kSimulated);
}

TEST(SimulatedLoss, RefusesTwoHalfTypes) {
  const auto stream = make_stream(kSimulated);
  const OwnedTensor logits({1, 8}, DType::bf16, kSimulated), d({1, 8}, DType::f16, kSimulated),
      labels({1}, DType::i32, kSimulated), weights({1}, DType::f32, kSimulated),
      losses({1}, DType::f32, kSimulated);
  EXPECT_THROW(
      cuda_kernels_on(kSimulated).cross_entropy(*stream, logits, labels, weights, 8, losses, d),
      Error);
}

}  // namespace
}  // namespace neox::testing
