#pragma once
// Matrix products by cuBLASLt.

#include "kernels/cuda/gemm.h"
#include "kernels/cuda/workspace.h"

struct cublasLtContext;

namespace neox {

class CublasLt final : public GemmEngine {
 public:
  /// `tf32`: for f32 operands. `measured`: of the algorithms that the heuristic proposes, take the
  /// fastest in a measurement instead of the first. Throws Error when the library or the device is
  /// missing.
  CublasLt(Device device, bool tf32, bool measured);
  ~CublasLt() override;
  CublasLt(const CublasLt&) = delete;
  CublasLt& operator=(const CublasLt&) = delete;

  std::unique_ptr<GemmPlan> make_plan(const GemmKey& key, const GemmOperands& operands,
                                      Stream& stream) override;
  double time(Stream& stream, const std::function<void()>& work) override;

 private:
  Device device_;
  bool tf32_;
  bool measured_;
  int measured_plans_ = 0;
  cublasLtContext* handle_ = nullptr;
  Workspace workspace_;
};

}  // namespace neox
