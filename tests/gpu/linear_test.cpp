// The linear family of the CUDA engine: on the GPU where there is one; and everywhere on the
// simulated device, where products are plain loops and all else (descriptions of products, plans,
// bias and bias gradient beside a product) is the code that a GPU runs.

#include "kernels/cuda/linear.h"

#include <functional>
#include <vector>

#include "core/tensor/buffer.h"
#include "kernels/cuda/simulated_gemm.h"
#include "tests/gpu/gpu_support.h"
#include "tests/kernels/op_cases.h"

namespace neox::testing {
namespace {

/// The operator harness takes whole backends: this one computes the linear family and nothing else.
class LinearOnly final : public DryRunBackend {
 public:
  LinearOnly(Device device, CudaLinear& kernels)
      : DryRunBackend(device, cpu_backend()), kernels_(kernels) {}
  std::string_view name() const override { return "cuda linear"; }
  void linear(Stream& s, ConstTensor x, ConstTensor w, ConstTensor bias, Tensor y) const override {
    kernels_.linear(s, x, w, bias, y);
  }
  void linear_backward_input(Stream& s, ConstTensor dy, ConstTensor w, Tensor dx,
                             bool accumulate) const override {
    kernels_.linear_backward_input(s, dy, w, dx, accumulate);
  }
  void linear_backward_weight(Stream& s, ConstTensor dy, ConstTensor x, Tensor dw, Tensor db,
                              bool accumulate) const override {
    kernels_.linear_backward_weight(s, dy, x, dw, db, accumulate);
  }

 private:
  CudaLinear& kernels_;
};

/// What computes the products.
enum class Engine { simulated, simulated_without_epilogues, cublaslt, cublaslt_first };

Device device_of(Engine engine) {
  const bool on_gpu = engine == Engine::cublaslt || engine == Engine::cublaslt_first;
  return on_gpu ? kGpu : kSimulated;
}

CudaLinear make_linear(Engine engine) {
  switch (engine) {
    case Engine::simulated:
      return CudaLinear(kSimulated);
    case Engine::simulated_without_epilogues:
      return {kSimulated, std::make_unique<SimulatedGemm>(false)};
    case Engine::cublaslt:
      return CudaLinear(kGpu);
    default:
      return CudaLinear(kGpu, {.tf32 = false, .deterministic = true});
  }
}

class LinearOn : public ::testing::TestWithParam<Engine> {
 protected:
  void SetUp() override {
    if (device_of(GetParam()) == kGpu && !no_gpu_reason().empty()) GTEST_SKIP() << no_gpu_reason();
  }
};

std::string name_of_engine(const ::testing::TestParamInfo<Engine>& info) {
  const char* names[] = {"Simulated", "SimulatedWithoutEpilogues", "CublasLt", "CublasLtFirst"};
  return names[static_cast<int>(info.param)];
}
INSTANTIATE_TEST_SUITE_P(Engines, LinearOn,
                         ::testing::Values(Engine::simulated, Engine::simulated_without_epilogues,
                                           Engine::cublaslt, Engine::cublaslt_first),
                         name_of_engine);

constexpr DType kDTypes[] = {DType::f32, DType::bf16, DType::f16};

TEST_P(LinearOn, MatchesTheReferencesOfTheHarness) {
  CudaLinear kernels = make_linear(GetParam());
  const LinearOnly backend(device_of(GetParam()), kernels);
  for (const DType dtype : kDTypes) {
    for (const OpCase& test : linear_cases(dtype, CaseSize::small)) {
      EXPECT_EQ(check_value(backend, test), "") << test.id();
      if (test.backward) {
        EXPECT_EQ(check_gradient(backend, test), "") << test.id();
      }
    }
  }
}

// ---- against the CPU engine ------------------------------------------------------------------

struct Problem {
  std::int64_t rows, in, out;
  std::int64_t skip = 0;  ///< elements between an aligned address and every tensor
};

/// A matrix of values on a device, `skip` elements behind an aligned address.
class Matrix {
 public:
  Matrix(Stream& stream, Device device, Shape shape, DType dtype, std::int64_t skip,
         std::uint64_t seed)
      : stream_(stream), all_({shape.numel() + skip}, dtype, device) {
    view_ = all_.tensor.slice(skip, skip + shape.numel()).reshape(shape);
    OwnedTensor host(shape, dtype);
    const Array values = normal_values(shape.numel(), seed);
    visit_float(dtype, [&](auto zero) {
      using T = decltype(zero);
      const auto to = host.tensor.span<T>();
      for (std::size_t i = 0; i < to.size(); ++i) to[i] = T(static_cast<float>(values[i]));
    });
    copy(stream, host, view_);
    stream.synchronize();
  }
  operator Tensor() const { return view_; }       // NOLINT: implicit on purpose
  operator ConstTensor() const { return view_; }  // NOLINT: implicit on purpose

  void append_to(Array& result) const {
    OwnedTensor host(view_.shape, view_.dtype);
    copy(stream_, view_, host);
    stream_.synchronize();
    visit_float(view_.dtype, [&](auto zero) {
      for (const auto value : host.tensor.span<decltype(zero)>()) {
        result.push_back(static_cast<double>(static_cast<float>(value)));
      }
    });
  }

 private:
  Stream& stream_;
  OwnedTensor all_;
  Tensor view_;
};

/// All products of one layer, each overwriting and adding.
struct Results {
  Array y, logits, dx, dw, db;
};

Results products(const LinearOps& ops, Device device, const Problem& p, DType t) {
  const auto stream = make_stream(device);
  const auto matrix = [&](Shape shape, DType dtype, std::uint64_t seed) {
    return Matrix(*stream, device, shape, dtype, p.skip, seed);
  };
  const Matrix x = matrix({p.rows, p.in}, t, 1), w = matrix({p.out, p.in}, t, 2),
               b = matrix({p.out}, t, 3), dy = matrix({p.rows, p.out}, t, 4);
  const Matrix y = matrix({p.rows, p.out}, t, 5), logits = matrix({p.rows, p.out}, DType::f32, 6),
               dx = matrix({p.rows, p.in}, t, 7), dw = matrix({p.out, p.in}, DType::f32, 8),
               db = matrix({p.out}, DType::f32, 9);
  Results results;
  ops.weights_changed();
  for (const ConstTensor& bias : {ConstTensor(), ConstTensor(b)}) {
    ops.linear(*stream, x, w, bias, y);
    ops.linear(*stream, x, w, bias, logits);
    y.append_to(results.y);
    logits.append_to(results.logits);
  }
  for (const bool accumulate : {true, false}) {
    ops.linear_backward_input(*stream, dy, w, dx, accumulate);
    dx.append_to(results.dx);
    for (const Tensor& sums : {Tensor(), Tensor(db)}) {
      ops.linear_backward_weight(*stream, dy, x, dw, sums, accumulate);
      dw.append_to(results.dw);
      db.append_to(results.db);
    }
  }
  return results;
}

/// Of results rounded to `t`: f32 sums may round to either side of the middle of two neighbours.
double bound(DType t) {
  return t == DType::bf16 ? 1e-2 : t == DType::f16 ? 2e-3 : 1e-5;
}

/// Of f32 sums of products of `t`. Tensor cores cut off, rather than round, what they add to a sum.
double sum_bound(Device device, DType t) {
  return device == kGpu && t != DType::f32 ? 1e-4 : 1e-5;
}

std::vector<Problem> problems(Device device) {
  std::vector<Problem> all = {{1, 1, 1},      {1, 64, 96},      {3, 17, 5, 1}, {33, 65, 67},
                              {64, 64, 64},   {64, 64, 64, 1},  {31, 300, 40}, {2100, 33, 40},
                              {100, 96, 130}, {1500, 8, 72, 3}, {0, 16, 16},   {48, 0, 16},
                              {48, 16, 0}};
  if (device == kGpu) {
    all.push_back({1024, 768, 3072});
    all.push_back({4096, 2048, 2048});
    all.push_back({700, 1000, 50257});
  }
  return all;
}

TEST_P(LinearOn, MatchesTheCpuEngine) {
  const Device device = device_of(GetParam());
  const CudaLinear kernels = make_linear(GetParam());
  for (const DType t : kDTypes) {
    for (const Problem& p : problems(device)) {
      SCOPED_TRACE(
          fmt::format("{} {} x {} -> {} skip {}", name_of(t), p.rows, p.in, p.out, p.skip));
      const Results want = products(cpu_backend(), Device{}, p, t);
      const Results got = products(kernels, device, p, t);
      EXPECT_LT(error_of(got.y, want.y), bound(t));
      EXPECT_LT(error_of(got.logits, want.logits), sum_bound(device, t));
      EXPECT_LT(error_of(got.dx, want.dx), bound(t));
      EXPECT_LT(error_of(got.dw, want.dw), sum_bound(device, t));
      EXPECT_LT(error_of(got.db, want.db), sum_bound(device, t));
    }
  }
}

// ---- plans -----------------------------------------------------------------------------------

TEST_P(LinearOn, SteadyStateMakesNoPlansAndAllocatesNothing) {
  const Device device = device_of(GetParam());
  const CudaLinear kernels = make_linear(GetParam());
  const auto stream = make_stream(device);
  const OwnedTensor x({200, 96}, DType::bf16, device), w({130, 96}, DType::bf16, device),
      b({130}, DType::bf16, device), y({200, 130}, DType::bf16, device),
      dx({200, 96}, DType::bf16, device), dw({130, 96}, DType::f32, device),
      db({130}, DType::f32, device);
  for (const Tensor& t : {x.tensor, w.tensor, b.tensor, y.tensor}) fill_zero(*stream, t);
  const auto step = [&] {
    kernels.linear(*stream, x, w, b, y);
    for (const bool accumulate : {false, true}) {
      kernels.linear_backward_input(*stream, y, w, dx, accumulate);
      kernels.linear_backward_weight(*stream, y, x, dw, db, accumulate);
    }
    stream->synchronize();
  };
  step();
  const std::int64_t made = kernels.plans().misses(), found = kernels.plans().hits();
  EXPECT_GE(made, 5);
  const AllocationCounts before = allocation_counts();
  for (int i = 0; i < 4; ++i) step();
  EXPECT_EQ(kernels.plans().misses(), made);
  EXPECT_GE(kernels.plans().hits(), found + 4 * 5);
  EXPECT_EQ(allocation_counts().calls, before.calls);
}

TEST_P(LinearOn, RepeatsBitForBit) {
  const Device device = device_of(GetParam());
  const CudaLinear kernels = make_linear(GetParam());
  const Problem p{1300, 72, 200};
  const Results first = products(kernels, device, p, DType::bf16);
  const Results second = products(kernels, device, p, DType::bf16);
  EXPECT_EQ(first.y, second.y);
  EXPECT_EQ(first.logits, second.logits);
  EXPECT_EQ(first.dx, second.dx);
  EXPECT_EQ(first.dw, second.dw);
  EXPECT_EQ(first.db, second.db);
}

/// Computes as SimulatedGemm does and claims to have measured.
class TimedEngine final : public GemmEngine {
 public:
  TimedEngine(double fused, double plain, double other)
      : fused_(fused), plain_(plain), other_(other) {}
  std::unique_ptr<GemmPlan> make_plan(const GemmKey& key, const GemmOperands& operands,
                                      Stream& stream) override {
    const double seconds = key.epilogue == GemmEpilogue::none ? plain_ : fused_;
    return std::make_unique<TimedPlan>(gemm_.make_plan(key, operands, stream), seconds);
  }
  double time(Stream&, const std::function<void()>& work) override {
    work();  // as often as a measurement would, results must not change
    work();
    return other_;
  }

 private:
  class TimedPlan final : public GemmPlan {
   public:
    TimedPlan(std::unique_ptr<GemmPlan> plan, double seconds)
        : plan_(std::move(plan)), seconds_(seconds) {}
    void run(Stream& stream, const GemmOperands& operands) override {
      plan_->run(stream, operands);
    }
    double seconds() const override { return seconds_; }

   private:
    std::unique_ptr<GemmPlan> plan_;
    double seconds_;
  };

  SimulatedGemm gemm_;
  double fused_, plain_, other_;
};

/// Plans found again while all products of a layer run.
int hits_with(double fused, double plain, double sums) {
  const CudaLinear kernels(kSimulated, std::make_unique<TimedEngine>(fused, plain, sums));
  const Problem p{100, 24, 40};
  const Results want = products(cpu_backend(), Device{}, p, DType::f32);
  const Results got = products(kernels, kSimulated, p, DType::f32);
  EXPECT_LT(error_of(got.dw, want.dw), 1e-5);
  EXPECT_LT(error_of(got.db, want.db), 1e-5);
  // Forward with and without a bias; overwriting and adding: input gradients, weight gradients,
  // and those with a bias gradient.
  EXPECT_EQ(kernels.plans().size(), 8u);
  return static_cast<int>(kernels.plans().hits());
}

TEST(CudaLinear, FusesTheBiasGradientUnlessThatIsSlower) {
  const int fused = hits_with(1.1, 1.0, 0.2), separate = hits_with(1.3, 1.0, 0.2);
  EXPECT_EQ(separate, fused + 2);              // looks for the fused plan, then for the product's
  EXPECT_EQ(hits_with(1.3, 0.0, 0.2), fused);  // the product alone was not measured
}

TEST(CudaLinear, RefusesWhatDoesNotFit) {
  const CudaLinear kernels(kSimulated);
  const auto stream = make_stream(kSimulated);
  const OwnedTensor x({4, 8}, DType::bf16, kSimulated), w({6, 8}, DType::bf16, kSimulated),
      y({4, 6}, DType::bf16, kSimulated), f32({4, 6}, DType::f32, kSimulated),
      f16({4, 6}, DType::f16, kSimulated), small({5}, DType::bf16, kSimulated),
      dw({6, 8}, DType::f32, kSimulated), db({6}, DType::f32, kSimulated);
  EXPECT_NO_THROW(kernels.linear(*stream, x, w, {}, f32));
  EXPECT_THROW(kernels.linear(*stream, x, w, {}, f16), Error);
  EXPECT_THROW(kernels.linear(*stream, x, w, small, y), Error);
  EXPECT_THROW(kernels.linear(*stream, x, w, db, y), Error);
  EXPECT_THROW(kernels.linear(*stream, y, w, {}, x), Error);
  EXPECT_THROW(kernels.linear_backward_input(*stream, f32, w, x, false), Error);
  EXPECT_THROW(kernels.linear_backward_weight(*stream, y, x, w, {}, false), Error);
  EXPECT_THROW(kernels.linear_backward_weight(*stream, y, x, dw, small, false), Error);
  const OwnedTensor host({4, 8}, DType::bf16);
  EXPECT_THROW(kernels.linear(*stream, host, w, {}, y), Error);
}

class CublasLtTest : public OnGpu {};

/// TF32 keeps 10 bits of an operand's mantissa: worse than f32 by far, better than bf16.
TEST_F(CublasLtTest, Tf32IsAnOption) {
  const Problem p{512, 1024, 768};
  const Results want = products(cpu_backend(), Device{}, p, DType::f32);
  const Results got =
      products(CudaLinear(kGpu, {.tf32 = true, .deterministic = false}), kGpu, p, DType::f32);
  EXPECT_GT(error_of(got.y, want.y), 1e-5);
  EXPECT_LT(error_of(got.y, want.y), 5e-3);
}

}  // namespace
}  // namespace neox::testing
