#pragma once
// Matrix products of DeviceKind::simulated: plain loops on the host in the place of cuBLASLt.

#include "kernels/cuda/gemm.h"

namespace neox {

class SimulatedGemm final : public GemmEngine {
 public:
  /// `epilogues`: whether it has them, as cuBLASLt may or may not.
  explicit SimulatedGemm(bool epilogues = true) : epilogues_(epilogues) {}
  std::unique_ptr<GemmPlan> make_plan(const GemmKey& key, const GemmOperands& operands,
                                      Stream& stream) override;

 private:
  bool epilogues_;
};

}  // namespace neox
