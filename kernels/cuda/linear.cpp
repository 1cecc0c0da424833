#include "kernels/cuda/linear.h"

#include "core/base/error.h"
#include "kernels/cuda/cublaslt.h"
#include "kernels/cuda/internal.h"
#include "kernels/cuda/linear_kernels.h"
#include "kernels/cuda/simulated_gemm.h"

namespace neox {
namespace {

std::unique_ptr<GemmEngine> make_engine(Device device, const CudaLinearOptions& options) {
  if (device.kind == DeviceKind::simulated) return std::make_unique<SimulatedGemm>();
  return std::make_unique<CublasLt>(device, options.tf32, !options.deterministic);
}

/// What is left of D[m, n] = ... without a product: nothing was summed.
void write_empty_sum(Stream& stream, Tensor d, bool accumulate) {
  if (!accumulate && d.numel() > 0) fill_zero(stream, d);
}

}  // namespace

CudaLinear::CudaLinear(Device device, const CudaLinearOptions& options)
    : CudaLinear(device, make_engine(device, options)) {}

CudaLinear::CudaLinear(Device device, std::unique_ptr<GemmEngine> engine)
    : CudaFamily(device), engine_(std::move(engine)) {}

void CudaLinear::linear(Stream& stream, ConstTensor x, ConstTensor w, ConstTensor bias,
                        Tensor y) const {
  input(w, x.dtype);
  input(x, x.dtype);
  output(y, y.dtype == DType::f32 ? DType::f32 : x.dtype);
  optional_input(bias, x.dtype);
  GemmOperands operands;
  const GemmKey key = forward_product(x, w, y, operands);
  if (bias && bias.numel() != y.cols()) {
    fail("internal error: a bias {} was given to {}", bias.shape.str(), y.shape.str());
  }
  if (y.numel() == 0) return;
  if (bias) return product_with_bias(stream, key, operands, bias, y);
  if (key.k == 0) return write_empty_sum(stream, y, false);
  run_product(key, operands, stream);
}

void CudaLinear::linear_backward_input(Stream& stream, ConstTensor dy, ConstTensor w, Tensor dx,
                                       bool accumulate) const {
  input(dy, dx.dtype);
  input(w, dx.dtype);
  output(dx, dx.dtype);
  GemmOperands operands;
  GemmKey key = input_gradient_product(dy, w, dx, operands);
  key.accumulate = accumulate;
  if (dx.numel() == 0) return;
  if (key.k == 0) return write_empty_sum(stream, dx, accumulate);
  run_product(key, operands, stream);
}

void CudaLinear::linear_backward_weight(Stream& stream, ConstTensor dy, ConstTensor x, Tensor dw,
                                        Tensor db, bool accumulate) const {
  input(dy, x.dtype);
  input(x, x.dtype);
  output(dw, DType::f32);
  optional_output(db, DType::f32);
  GemmOperands operands;
  GemmKey key = weight_gradient_product(dy, x, dw, operands);
  key.accumulate = accumulate;
  if (db && db.numel() != dy.cols()) {
    fail("internal error: a bias gradient {} was given for {}", db.shape.str(), dy.shape.str());
  }
  if (key.k == 0 || dw.numel() == 0) {
    write_empty_sum(stream, dw, accumulate);
    if (!db) return;
    if (key.k == 0) return write_empty_sum(stream, db, accumulate);
  }
  if (db && db.numel() > 0) return product_with_bias_gradient(stream, key, operands, dy, db);
  if (dw.numel() > 0) run_product(key, operands, stream);
}

GemmPlan* CudaLinear::plan(const GemmKey& key, const GemmOperands& operands, Stream& stream) const {
  return plans_.get(key, [&] { return engine_->make_plan(key, operands, stream); }).get();
}

void CudaLinear::run_product(const GemmKey& key, const GemmOperands& operands,
                             Stream& stream) const {
  const std::scoped_lock lock(mutex_);
  plan(key, operands, stream)->run(stream, operands);
}

void CudaLinear::product_with_bias(Stream& stream, GemmKey key, GemmOperands operands,
                                   ConstTensor bias, Tensor y) const {
  if (bias.dtype == y.dtype && key.k > 0) {  // cuBLASLt has biases of D's dtype only
    GemmKey fused = key;
    GemmOperands with_bias = operands;
    fused.epilogue = GemmEpilogue::bias;
    fused.align_vector = alignment_of(bias.data);
    with_bias.vector = const_cast<std::byte*>(bias.data);  // read only, says the epilogue
    const std::scoped_lock lock(mutex_);
    if (GemmPlan* found = plan(fused, with_bias, stream)) return found->run(stream, with_bias);
  }
  // The bias goes through D: rounded once, as in an epilogue.
  run(stream, "broadcast_rows", [=, this](const cuda::Launch& launch) {
    cuda::broadcast_rows(launch, bias.dtype, bias.data, y.dtype, y.data, y.rows(), y.cols());
  });
  if (key.k == 0) return;
  key.accumulate = true;
  run_product(key, operands, stream);
}

void CudaLinear::sum_columns(Stream& stream, ConstTensor dy, float* sums, bool accumulate) const {
  const std::size_t bytes = cuda::column_sums_scratch(dy.rows(), dy.cols());
  auto* scratch = static_cast<std::byte*>(scratch_.take(stream, bytes));
  run(stream, "column_sums", [=, this](const cuda::Launch& launch) {
    cuda::column_sums(launch, dy.dtype, dy.data, dy.rows(), dy.cols(), accumulate, sums, scratch);
  });
}

/// Empty where the product and then the column sums are faster.
std::unique_ptr<GemmPlan> CudaLinear::plan_with_bias_gradient(const GemmKey& fused,
                                                              const GemmKey& plain,
                                                              const GemmOperands& operands,
                                                              ConstTensor dy,
                                                              Stream& stream) const {
  auto made = engine_->make_plan(fused, operands, stream);
  if (made == nullptr || made->seconds() == 0) return made;
  GemmOperands without = operands;
  without.vector = nullptr;
  const double product = plan(plain, without, stream)->seconds();
  if (product == 0) return made;  // it was not measured
  const double sums = engine_->time(
      stream, [&] { sum_columns(stream, dy, static_cast<float*>(operands.vector), false); });
  if (made->seconds() > product + sums) made.reset();
  return made;
}

void CudaLinear::product_with_bias_gradient(Stream& stream, const GemmKey& key,
                                            const GemmOperands& operands, ConstTensor dy,
                                            Tensor db) const {
  auto* to = reinterpret_cast<float*>(db.data);
  if (key.m > 0) {
    GemmKey fused = key;
    fused.epilogue = GemmEpilogue::bias_gradient;
    GemmOperands with_sums = operands;
    with_sums.vector = sums_.take(stream, db.bytes());  // the epilogue overwrites, db may add
    const std::scoped_lock lock(mutex_);
    const auto& found = plans_.get(
        fused, [&] { return plan_with_bias_gradient(fused, key, with_sums, dy, stream); });
    if (found != nullptr) {
      found->run(stream, with_sums);
      return run(stream, "collect_sums", [=, this](const cuda::Launch& launch) {
        cuda::collect_sums(launch, static_cast<const float*>(with_sums.vector), to, db.numel(),
                           key.accumulate);
      });
    }
    plan(key, operands, stream)->run(stream, operands);
  }
  sum_columns(stream, dy, to, key.accumulate);
}

}  // namespace neox
