#pragma once
// What the tests of the CUDA backend share.

#include <memory>
#include <string>

#include <gtest/gtest.h>

#include "kernels/cuda/elementwise.h"
#include "kernels/dry_run/dry_run_backend.h"

namespace neox::testing {

inline constexpr Device kGpu{DeviceKind::cuda, 0};
/// Runs the same kernels on the host.
inline constexpr Device kSimulated{DeviceKind::simulated, 0};

/// "" when a GPU can be used, else why not. Registers the CUDA runtime at the first call.
const std::string& no_gpu_reason();

/// Skips the test where there is no GPU, with the reason.
class OnGpu : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!no_gpu_reason().empty()) GTEST_SKIP() << no_gpu_reason();
  }
};

/// The operator harness takes whole backends: this one computes the elementwise family and nothing
/// else (results of other operators stay unwritten, which the harness reports).
class ElementwiseOnly final : public DryRunBackend {
 public:
  ElementwiseOnly(Device device, const Backend& cpu)
      : DryRunBackend(device, cpu), kernels_(device) {}
  std::string_view name() const override { return "cuda elementwise"; }

  void activation(Stream& s, Activation kind, ConstTensor x, Tensor y) const override {
    kernels_.activation(s, kind, x, y);
  }
  void activation_backward(Stream& s, Activation kind, ConstTensor x, ConstTensor dy,
                           Tensor dx) const override {
    kernels_.activation_backward(s, kind, x, dy, dx);
  }
  void gated_activation(Stream& s, Activation kind, ConstTensor x, Tensor y) const override {
    kernels_.gated_activation(s, kind, x, y);
  }
  void gated_activation_backward(Stream& s, Activation kind, ConstTensor x, ConstTensor dy,
                                 Tensor dx) const override {
    kernels_.gated_activation_backward(s, kind, x, dy, dx);
  }
  void residual_add(Stream& s, ConstTensor residual, ConstTensor a, const Dropout& dropout_a,
                    ConstTensor b, const Dropout& dropout_b, Tensor y) const override {
    kernels_.residual_add(s, residual, a, dropout_a, b, dropout_b, y);
  }
  void dropout(Stream& s, ConstTensor x, const Dropout& dropout, Tensor y) const override {
    kernels_.dropout(s, x, dropout, y);
  }
  void cast(Stream& s, ConstTensor x, Tensor y) const override { kernels_.cast(s, x, y); }
  void add_into(Stream& s, ConstTensor x, Tensor y) const override { kernels_.add_into(s, x, y); }

 private:
  CudaElementwise kernels_;
};

/// The CPU engine, and the CUDA kernels on kGpu or kSimulated.
const Backend& cpu_backend();
const Backend& cuda_kernels_on(Device device);

}  // namespace neox::testing
