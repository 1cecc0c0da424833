// The CUDA norms on shapes and alignments that the harness's small cases don't have, against the
// CPU engine.

#include "tests/gpu/device_matrix.h"
#include "tests/gpu/gpu_support.h"

namespace neox::testing {
namespace {

struct Form {
  Shape shape;
  std::int64_t skip;  // elements behind an aligned address
};

/// Rows for a warp, for several teams in a block, for a whole block, and rows that do not fit in
/// registers; more rows than run at once; odd lengths and unaligned starts.
std::vector<Form> forms(Device device) {
  std::vector<Form> all = {{{3, 768}, 0},   {{70, 64}, 0},   {{5, 1024}, 8},  {{5, 1024}, 1},
                           {{37, 1536}, 0}, {{7, 1001}, 0},  {{9, 4104}, 0},  {{2, 12288}, 0},
                           {{3, 12296}, 0}, {{2, 33008}, 0}, {{1, 40001}, 3}, {{1100, 16}, 0}};
  if (device == kGpu) {
    all.push_back({{8192, 768}, 0});
    all.push_back({{4096, 4096}, 0});
    all.push_back({{2049, 8192}, 0});
    all.push_back({{1025, 20480}, 0});
    all.push_back({{70000, 100}, 0});
  }
  return all;
}

struct Results {
  Array y, mean, rstd;
  Array dx, dw, db;  // of the joint call
  Array dx_alone, dw_alone, db_alone;
  bool operator==(const Results&) const = default;
};

/// Everything a norm computes; w's and b's gradients are added to some values.
Results compute(const Backend& ops, Device on, Stream& s, const Form& form, DType dtype,
                bool centered) {
  const std::int64_t rows = form.shape[0], h = form.shape[1];
  const auto matrix = [&](Shape shape, DType t) { return Matrix(on, s, shape, t, form.skip); };
  Matrix x = matrix(form.shape, dtype), w = matrix({h}, dtype), b = matrix({h}, dtype),
         y = matrix(form.shape, dtype), mean = matrix({rows}, DType::f32),
         rstd = matrix({rows}, DType::f32), dy = matrix(form.shape, dtype),
         dx = matrix(form.shape, dtype), dw = matrix({h}, DType::f32), db = matrix({h}, DType::f32);
  Array values = normal_values(rows * h, 1, 2.0), scale = normal_values(h, 2, 0.3);
  for (double& v : values) v += 3.0;
  for (double& v : scale) v += 1.0;
  const Array shift = normal_values(h, 3), gradient = normal_values(rows * h, 4),
              residual = normal_values(rows * h, 5), before = normal_values(h, 6);
  x.write(values);
  w.write(scale);
  b.write(shift);
  dy.write(gradient);
  Results r;
  if (centered) {
    ops.layer_norm(s, x, w, b, 1e-5f, y, mean, rstd);
    r.mean = mean.read();
  } else {
    ops.rms_norm(s, x, w, 1e-5f, y, rstd);
  }
  r.y = y.read();
  r.rstd = rstd.read();
  const auto backward = [&](Tensor to_x, Tensor to_w, Tensor to_b) {
    dx.write(residual);  // in place
    dw.write(before);
    db.write(before);
    if (centered) {
      ops.layer_norm_backward(s, dy, x, w, mean, rstd, dx, to_x, to_w, to_b, true);
    } else {
      ops.rms_norm_backward(s, dy, x, w, rstd, dx, to_x, to_w, true);
    }
  };
  backward(dx, dw, db);
  r.dx = dx.read();
  r.dw = dw.read();
  if (centered) r.db = db.read();
  backward(dx, {}, {});
  r.dx_alone = dx.read();
  backward({}, dw, db);
  r.dw_alone = dw.read();
  if (centered) r.db_alone = db.read();
  return r;
}

void check(Device device, DType dtype) {
  const auto cpu_stream = make_stream(Device{}), stream = make_stream(device);
  const double tolerance = dtype == DType::f32 ? 2e-5 : 1e-2;
  for (const Form& form : forms(device)) {
    for (const bool centered : {true, false}) {
      SCOPED_TRACE(fmt::format("{} {} {} skip {}", centered ? "layer_norm" : "rms_norm",
                               name_of(dtype), form.shape.str(), form.skip));
      const Results want = compute(cpu_backend(), Device{}, *cpu_stream, form, dtype, centered);
      const auto run = [&] {
        return compute(cuda_kernels_on(device), device, *stream, form, dtype, centered);
      };
      const Results got = run();
      for (const auto part : {&Results::y, &Results::mean, &Results::rstd, &Results::dx,
                              &Results::dw, &Results::db}) {
        ASSERT_EQ((got.*part).size(), (want.*part).size()) << "wrote outside of its result";
        const bool stored = part == &Results::y || part == &Results::dx;
        EXPECT_LT(error_of(got.*part, want.*part), stored ? tolerance : 2e-5);
      }
      EXPECT_EQ(got.dx_alone, got.dx);
      EXPECT_EQ(got.dw_alone, got.dw);
      EXPECT_EQ(got.db_alone, got.db);
      if (form.shape.numel() <= 16384) {
        EXPECT_EQ(orders_that_differ<Results>(got, run), 0);
      }
    }
  }
}

class CudaNormAgainstCpu : public OnGpu, public ::testing::WithParamInterface<DType> {};
class SimulatedNormAgainstCpu : public ::testing::TestWithParam<DType> {};
TEST_P(CudaNormAgainstCpu, AllShapes) {
  check(kGpu, GetParam());
}
TEST_P(SimulatedNormAgainstCpu, AllShapes) {
  check(kSimulated, GetParam());
}
const auto kDTypes = ::testing::Values(DType::f32, DType::bf16, DType::f16);
std::string id_of(const ::testing::TestParamInfo<DType>& info) {
  return std::string(name_of(info.param));
}
INSTANTIATE_TEST_SUITE_P(Norm, CudaNormAgainstCpu, kDTypes, id_of);
INSTANTIATE_TEST_SUITE_P(Norm, SimulatedNormAgainstCpu, kDTypes, id_of);

TEST(SimulatedNorm, AllocatesNothingInTheSteadyState) {
  const auto stream = make_stream(kSimulated);
  const Backend& ops = cuda_kernels_on(kSimulated);
  const OwnedTensor x({40, 64}, DType::f32, kSimulated), w({64}, DType::f32, kSimulated),
      rstd({40}, DType::f32, kSimulated), dw({64}, DType::f32, kSimulated);
  const auto backward = [&] {
    ops.rms_norm_backward(*stream, x, x, w, rstd, {}, {}, dw, false);
    return allocation_counts().calls;
  };
  const auto calls = backward();
  EXPECT_EQ(backward(), calls);
}

}  // namespace
}  // namespace neox::testing
