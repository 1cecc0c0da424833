#include "kernels/cpu/cpu_backend.h"

#include "kernels/cpu/gemm.h"

namespace neox {

CpuBackend::CpuBackend() : gemm_(std::make_unique<CpuGemm>()) {}
CpuBackend::~CpuBackend() = default;

bool CpuBackend::fast(DType dtype) const {
  return gemm_->fast(dtype);
}

}  // namespace neox
