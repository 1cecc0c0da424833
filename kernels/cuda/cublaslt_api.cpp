#include "kernels/cuda/cublaslt_api.h"

#include "core/base/error.h"
#include "core/base/shared_library.h"

namespace neox {
namespace {

#define NEOX_TEXT2(x) #x
#define NEOX_TEXT(x) NEOX_TEXT2(x)
constexpr const char* kLibrary = "libcublasLt.so." NEOX_TEXT(CUBLAS_VER_MAJOR);

CublasLtApi load() {
  const SharedLibrary library(kLibrary, NEOX_CUDA_LIBRARY_DIR);
  CublasLtApi api;
  library.find("cublasLtCreate", api.create);
  library.find("cublasLtDestroy", api.destroy);
  library.find("cublasLtGetStatusName", api.status_name);
  library.find("cublasLtGetStatusString", api.status_text);
  library.find("cublasLtMatmul", api.matmul);
  library.find("cublasLtMatmulAlgoGetHeuristic", api.heuristic);
  library.find("cublasLtMatmulDescCreate", api.desc_create);
  library.find("cublasLtMatmulDescDestroy", api.desc_destroy);
  library.find("cublasLtMatmulDescSetAttribute", api.desc_set);
  library.find("cublasLtMatrixLayoutCreate", api.layout_create);
  library.find("cublasLtMatrixLayoutDestroy", api.layout_destroy);
  library.find("cublasLtMatmulPreferenceCreate", api.preference_create);
  library.find("cublasLtMatmulPreferenceDestroy", api.preference_destroy);
  library.find("cublasLtMatmulPreferenceSetAttribute", api.preference_set);
  return api;
}

}  // namespace

const CublasLtApi& cublaslt() {
  static const CublasLtApi api = load();  // tried again after a failure
  return api;
}

void cublas_check(cublasStatus_t status, std::string_view call, std::source_location where) {
  if (status == CUBLAS_STATUS_SUCCESS) [[likely]]
    return;
  const CublasLtApi& api = cublaslt();
  throw Error(fmt::format("cuBLASLt call {} failed with {} ({}): {}", call, api.status_name(status),
                          static_cast<int>(status), api.status_text(status)),
              where);
}

}  // namespace neox
