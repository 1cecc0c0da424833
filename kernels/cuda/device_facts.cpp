#include "kernels/cuda/device_facts.h"

#include <cublasLt.h>

#include "core/base/error.h"
#include "core/base/shared_library.h"
#include "kernels/cuda/internal.h"

namespace neox {
namespace {

#define NEOX_TEXT2(x) #x
#define NEOX_TEXT(x) NEOX_TEXT2(x)
constexpr const char* kCublasLt = "libcublasLt.so." NEOX_TEXT(CUBLAS_VER_MAJOR);

std::string cublaslt_version() {
  const SharedLibrary library(kCublasLt, NEOX_CUDA_LIBRARY_DIR);
  decltype(cublasLtGetVersion)* get_version = nullptr;
  library.find("cublasLtGetVersion", get_version);
  const std::size_t version = get_version();  // 130100: 13.1.0
  return fmt::format("{}.{}.{}", version / 10000, version / 100 % 100, version % 100);
}

}  // namespace

DeviceFacts cuda_device_facts(int device_index) {
  const DeviceGuard guard(device_index);
  DeviceFacts facts;
  cudaDeviceProp properties{};
  cuda_check(cudaGetDeviceProperties(&properties, device_index), "cudaGetDeviceProperties");
  facts.model = properties.name;
  cuda_check(cudaMemGetInfo(&facts.free_bytes, &facts.total_bytes), "cudaMemGetInfo");
  int driver = 0;
  cuda_check(cudaDriverGetVersion(&driver), "cudaDriverGetVersion");  // 13000: 13.0
  facts.versions["CUDA driver"] = fmt::format("{}.{}", driver / 1000, driver % 1000 / 10);
  facts.versions["cuBLASLt"] = cublaslt_version();
  if (const std::string cudnn = cudnn_version(); !cudnn.empty()) facts.versions["cuDNN"] = cudnn;
  return facts;
}

}  // namespace neox
