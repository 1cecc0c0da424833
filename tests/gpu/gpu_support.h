#pragma once
// What the tests of the CUDA backend share.

#include <memory>
#include <string>

#include <gtest/gtest.h>

#include "kernels/backend.h"
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

/// The CPU engine, and the CUDA engine with attention of its own, on kGpu or kSimulated.
const Backend& cpu_backend();
const Backend& cuda_kernels_on(Device device);

}  // namespace neox::testing
