#include "kernels/cpu/cpu_backend.h"

#include "core/base/error.h"
#include "kernels/cpu/gemm.h"

namespace neox {

CpuBackend::CpuBackend() : gemm_(std::make_unique<CpuGemm>()) {}
CpuBackend::~CpuBackend() = default;

bool CpuBackend::fast(DType dtype) const {
  return gemm_->fast(dtype);
}

std::unique_ptr<Backend> make_backend(Device device) {
  require(device.is_cpu(),
          "no backend for {}: this program computes on the CPU only; choose the device cpu",
          name_of(device));
  return std::make_unique<CpuBackend>();
}

}  // namespace neox
