#include "kernels/cuda/cublaslt.h"

#include <algorithm>
#include <array>
#include <limits>
#include <optional>
#include <vector>

#include "core/base/error.h"
#include "kernels/cuda/cublaslt_api.h"
#include "kernels/cuda/internal.h"

namespace neox {
namespace {

/// What NVIDIA recommends for Hopper; earlier GPUs need less.
constexpr std::size_t kWorkspaceBytes = std::size_t{32} << 20;
constexpr int kCandidates = 8;
constexpr int kTimedRuns = 3;
/// Shapes that are measured. Training has a few dozen; text generation, whose shapes change with
/// every text, shall not measure for ever.
constexpr int kMeasuredPlans = 256;

// ---- descriptors -----------------------------------------------------------------------------

struct Destroy {
  void operator()(cublasLtMatmulDescOpaque_t* d) const { cublaslt().desc_destroy(d); }
  void operator()(cublasLtMatrixLayoutOpaque_t* d) const { cublaslt().layout_destroy(d); }
  void operator()(cublasLtMatmulPreferenceOpaque_t* d) const { cublaslt().preference_destroy(d); }
};
using Description = std::unique_ptr<cublasLtMatmulDescOpaque_t, Destroy>;
using Layout = std::unique_ptr<cublasLtMatrixLayoutOpaque_t, Destroy>;
using Preference = std::unique_ptr<cublasLtMatmulPreferenceOpaque_t, Destroy>;

cudaDataType_t type_of(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return CUDA_R_32F;
    case DType::bf16:
      return CUDA_R_16BF;
    case DType::f16:
      return CUDA_R_16F;
    default:
      fail_not_compute_type(dtype);
  }
}

template <class T>
void set(const Description& to, cublasLtMatmulDescAttributes_t attribute, const T& value) {
  cublas_check(cublaslt().desc_set(to.get(), attribute, &value, sizeof value),
               "cublasLtMatmulDescSetAttribute");
}
template <class T>
void set(const Preference& to, cublasLtMatmulPreferenceAttributes_t attribute, const T& value) {
  cublas_check(cublaslt().preference_set(to.get(), attribute, &value, sizeof value),
               "cublasLtMatmulPreferenceSetAttribute");
}

Description describe(const GemmKey& key, const void* vector, bool tf32) {
  const bool rounds = tf32 && key.operand == DType::f32;
  cublasLtMatmulDesc_t raw = nullptr;
  cublas_check(cublaslt().desc_create(
                   &raw, rounds ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F, CUDA_R_32F),
               "cublasLtMatmulDescCreate");
  Description description(raw);
  const auto operation = [](bool transpose) {
    return static_cast<std::int32_t>(transpose ? CUBLAS_OP_T : CUBLAS_OP_N);
  };
  set(description, CUBLASLT_MATMUL_DESC_TRANSA, operation(key.transpose_a));
  set(description, CUBLASLT_MATMUL_DESC_TRANSB, operation(key.transpose_b));
  if (key.epilogue != GemmEpilogue::none) {
    const cublasLtEpilogue_t epilogue =
        key.epilogue == GemmEpilogue::bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_BGRADB;
    set(description, CUBLASLT_MATMUL_DESC_EPILOGUE, static_cast<std::uint32_t>(epilogue));
    set(description, CUBLASLT_MATMUL_DESC_BIAS_POINTER, vector);  // the heuristic asks for it too
  }
  return description;
}

Layout layout(DType dtype, std::int64_t rows, std::int64_t cols, std::int64_t ld) {
  cublasLtMatrixLayout_t raw = nullptr;
  cublas_check(cublaslt().layout_create(&raw, type_of(dtype), static_cast<std::uint64_t>(rows),
                                        static_cast<std::uint64_t>(cols), ld),
               "cublasLtMatrixLayoutCreate");
  return Layout(raw);
}

Preference preference(const GemmKey& key) {
  cublasLtMatmulPreference_t raw = nullptr;
  cublas_check(cublaslt().preference_create(&raw), "cublasLtMatmulPreferenceCreate");
  Preference result(raw);
  set(result, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kWorkspaceBytes);
  // Parts of a split sum meet in f32, never in a 16-bit result.
  set(result, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
      static_cast<std::uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
  set(result, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, static_cast<std::uint32_t>(key.align_a));
  set(result, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, static_cast<std::uint32_t>(key.align_b));
  set(result, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, static_cast<std::uint32_t>(key.align_d));
  set(result, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, static_cast<std::uint32_t>(key.align_d));
  return result;
}

// ---- time ------------------------------------------------------------------------------------

class TimedEvent {
 public:
  TimedEvent() { cuda_check(cudaEventCreate(&event_), "cudaEventCreate"); }
  ~TimedEvent() { static_cast<void>(cudaEventDestroy(event_)); }
  TimedEvent(const TimedEvent&) = delete;
  TimedEvent& operator=(const TimedEvent&) = delete;
  operator cudaEvent_t() const { return event_; }  // NOLINT: implicit on purpose

 private:
  cudaEvent_t event_ = nullptr;
};

/// After a first run, which may load code: the least of a few, since others only add.
double least_seconds(cudaStream_t stream, const std::function<void()>& work) {
  work();
  const TimedEvent begin, end;
  double least = std::numeric_limits<double>::infinity();
  for (int i = 0; i < kTimedRuns; ++i) {
    cuda_check(cudaEventRecord(begin, stream), "cudaEventRecord");
    work();
    cuda_check(cudaEventRecord(end, stream), "cudaEventRecord");
    cuda_check(cudaEventSynchronize(end), "cudaEventSynchronize");
    float milliseconds = 0;
    cuda_check(cudaEventElapsedTime(&milliseconds, begin, end), "cudaEventElapsedTime");
    least = std::min(least, double{milliseconds} * 1e-3);
  }
  return least;
}

// ---- plans -----------------------------------------------------------------------------------

class CublasLtPlan final : public GemmPlan {
 public:
  CublasLtPlan(cublasLtHandle_t handle, Workspace& workspace, const GemmKey& key,
               const void* vector, bool tf32)
      : handle_(handle),
        workspace_(workspace),
        key_(key),
        description_(describe(key, vector, tf32)),
        a_(key.transpose_a ? layout(key.operand, key.k, key.m, key.lda)
                           : layout(key.operand, key.m, key.k, key.lda)),
        b_(key.transpose_b ? layout(key.operand, key.n, key.k, key.ldb)
                           : layout(key.operand, key.k, key.n, key.ldb)),
        d_(layout(key.result, key.m, key.n, key.ldd)) {}

  /// What the heuristic proposes, best first; none when the product is not supported.
  std::vector<cublasLtMatmulHeuristicResult_t> candidates() const {
    std::array<cublasLtMatmulHeuristicResult_t, kCandidates> results{};
    int count = 0;
    const cublasStatus_t status =
        cublaslt().heuristic(handle_, description_.get(), a_.get(), b_.get(), d_.get(), d_.get(),
                             preference(key_).get(), kCandidates, results.data(), &count);
    if (status == CUBLAS_STATUS_NOT_SUPPORTED) return {};
    cublas_check(status, "cublasLtMatmulAlgoGetHeuristic");
    std::vector<cublasLtMatmulHeuristicResult_t> usable;
    for (const auto& result : std::span(results).first(static_cast<std::size_t>(count))) {
      const bool works =
          result.state == CUBLAS_STATUS_SUCCESS && result.workspaceSize <= kWorkspaceBytes;
      if (works) usable.push_back(result);
    }
    return usable;
  }
  void take(const cublasLtMatmulHeuristicResult_t& candidate, double seconds) {
    algorithm_ = candidate.algo;
    seconds_ = seconds;
  }

  cublasStatus_t try_run(const cublasLtMatmulAlgo_t& algorithm, Stream& stream,
                         const GemmOperands& operands) {
    if (key_.epilogue != GemmEpilogue::none) {
      set(description_, CUBLASLT_MATMUL_DESC_BIAS_POINTER, operands.vector);
    }
    const float alpha = 1.0f, beta = key_.accumulate ? 1.0f : 0.0f;
    return cublaslt().matmul(handle_, description_.get(), &alpha, operands.a, a_.get(), operands.b,
                             b_.get(), &beta, operands.d, d_.get(), operands.d, d_.get(),
                             &algorithm, workspace_.take(stream, kWorkspaceBytes), kWorkspaceBytes,
                             cuda_stream(stream));
  }
  void run(Stream& stream, const GemmOperands& operands) override {
    const DeviceGuard guard(stream.device().index);
    const cublasStatus_t status = try_run(algorithm_, stream, operands);
    if (status == CUBLAS_STATUS_SUCCESS) [[likely]]
      return;
    cublas_check(status, fmt::format("cublasLtMatmul ({} x {} x {}, {})", key_.m, key_.n, key_.k,
                                     name_of(key_.operand)));
  }
  double seconds() const override { return seconds_; }

 private:
  cublasLtHandle_t handle_;
  Workspace& workspace_;
  GemmKey key_;
  Description description_;
  Layout a_, b_, d_;
  cublasLtMatmulAlgo_t algorithm_{};
  double seconds_ = 0;
};

/// Where the candidates of an accumulating product may write: D itself must not change. Empty when
/// there is no room for it.
std::optional<Buffer> scratch_result(const GemmKey& key, Stream& stream) {
  try {
    const auto bytes = static_cast<std::size_t>(key.ldd * key.n) * size_of(key.result);
    Buffer buffer(bytes, stream.device(), MemoryOwner::backend);
    fill_zero(stream, buffer.view({static_cast<std::int64_t>(bytes)}, DType::u8));
    return buffer;
  } catch (const Error&) {
    return std::nullopt;
  }
}

/// Seconds of each candidate, infinite where it does not run; empty when nothing was measured.
std::vector<double> measure(CublasLtPlan& plan, const GemmKey& key,
                            const std::vector<cublasLtMatmulHeuristicResult_t>& candidates,
                            const GemmOperands& operands, Stream& stream) {
  GemmOperands trial = operands;
  std::optional<Buffer> scratch;
  if (key.accumulate) {
    scratch = scratch_result(key, stream);
    if (!scratch) return {};
    trial.d = scratch->data();
  }
  std::vector<double> seconds;
  for (const auto& candidate : candidates) {
    bool runs = true;
    const double least = least_seconds(cuda_stream(stream), [&] {
      runs = runs && plan.try_run(candidate.algo, stream, trial) == CUBLAS_STATUS_SUCCESS;
    });
    seconds.push_back(runs ? least : std::numeric_limits<double>::infinity());
  }
  return seconds;
}

}  // namespace

CublasLt::CublasLt(Device device, bool tf32, bool measured)
    : device_(device), tf32_(tf32), measured_(measured) {
  const CublasLtApi& api = cublaslt();
  const DeviceGuard guard(device.index);
  cublas_check(api.create(&handle_), "cublasLtCreate");
}

CublasLt::~CublasLt() {
  static_cast<void>(cublaslt().destroy(handle_));
}

std::unique_ptr<GemmPlan> CublasLt::make_plan(const GemmKey& key, const GemmOperands& operands,
                                              Stream& stream) {
  const DeviceGuard guard(device_.index);
  auto plan = std::make_unique<CublasLtPlan>(handle_, workspace_, key, operands.vector, tf32_);
  const auto candidates = plan->candidates();
  if (candidates.empty()) {
    if (key.epilogue != GemmEpilogue::none) return nullptr;
    fail("cuBLASLt has no algorithm for a product of {} [{} x {}] and [{} x {}] into {}",
         name_of(key.operand), key.m, key.k, key.k, key.n, name_of(key.result));
  }
  std::vector<double> seconds;
  if (measured_ && candidates.size() > 1 && measured_plans_ < kMeasuredPlans) {
    ++measured_plans_;
    seconds = measure(*plan, key, candidates, operands, stream);
  }
  const std::size_t chosen = seconds.empty() ? 0 : choose_candidate(seconds);
  plan->take(candidates[chosen], seconds.empty() ? 0 : seconds[chosen]);
  return plan;
}

double CublasLt::time(Stream& stream, const std::function<void()>& work) {
  if (!measured_) return 0;
  const DeviceGuard guard(device_.index);
  return least_seconds(cuda_stream(stream), work);
}

}  // namespace neox
