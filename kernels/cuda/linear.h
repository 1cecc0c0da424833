#pragma once
// The linear family on NVIDIA GPUs: cuBLASLt, with the bias and its gradient inside the products
// where cuBLASLt has them.

#include <memory>
#include <mutex>

#include "kernels/cuda/family.h"
#include "kernels/cuda/gemm.h"
#include "kernels/cuda/plan_cache.h"
#include "kernels/cuda/workspace.h"
#include "kernels/linear.h"

namespace neox {

struct CudaLinearOptions {
  /// Products of f32 tensors round their operands to TF32 (10 bits of mantissa), which is several
  /// times faster.
  bool tf32 = false;
  /// Take the algorithm that cuBLASLt's heuristic puts first instead of the one that is fastest in
  /// a measurement, so that the same program on the same GPU always computes the same bits.
  bool deterministic = false;
};

/// The algorithm of a product is chosen when its shape is first seen; later calls neither allocate
/// nor wait. Calls of different threads exclude each other.
class CudaLinear : public virtual LinearOps, protected CudaFamily {
 public:
  /// Throws Error when cuBLASLt cannot be loaded. On a simulated device the products are plain
  /// loops on the host, behind the same plans.
  explicit CudaLinear(Device device, const CudaLinearOptions& options = {});
  /// With another way to compute products.
  CudaLinear(Device device, std::unique_ptr<GemmEngine> engine);

  void linear(Stream& stream, ConstTensor x, ConstTensor w, ConstTensor bias,
              Tensor y) const override;
  void linear_backward_input(Stream& stream, ConstTensor dy, ConstTensor w, Tensor dx,
                             bool accumulate) const override;
  void linear_backward_weight(Stream& stream, ConstTensor dy, ConstTensor x, Tensor dw, Tensor db,
                              bool accumulate) const override;
  /// Nothing is derived from weights.
  void weights_changed() const override {}

  /// The key's plan; empty where the bias is better computed beside the product.
  using Plans = PlanCache<GemmKey, std::unique_ptr<GemmPlan>>;
  const Plans& plans() const { return plans_; }

 private:
  GemmPlan* plan(const GemmKey& key, const GemmOperands& operands, Stream& stream) const;
  void run_product(const GemmKey& key, const GemmOperands& operands, Stream& stream) const;
  void product_with_bias(Stream& stream, GemmKey key, GemmOperands operands, ConstTensor bias,
                         Tensor y) const;
  void product_with_bias_gradient(Stream& stream, const GemmKey& key, const GemmOperands& operands,
                                  ConstTensor dy, Tensor db) const;
  std::unique_ptr<GemmPlan> plan_with_bias_gradient(const GemmKey& fused, const GemmKey& plain,
                                                    const GemmOperands& operands, ConstTensor dy,
                                                    Stream& stream) const;
  void sum_columns(Stream& stream, ConstTensor dy, float* sums, bool accumulate) const;

  std::unique_ptr<GemmEngine> engine_;
  mutable std::mutex mutex_;
  mutable Plans plans_;
  Workspace sums_;     // what an epilogue sums
  Workspace scratch_;  // of column_sums
};

}  // namespace neox
