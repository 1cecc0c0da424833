#pragma once
// cuBLASLt, loaded when it is first needed. Private to kernels/cuda and its tests.

#include <source_location>
#include <string_view>

#include <cublasLt.h>

namespace neox {

/// The functions used, under their names without the prefix.
struct CublasLtApi {
  decltype(cublasLtCreate)* create = nullptr;
  decltype(cublasLtDestroy)* destroy = nullptr;
  decltype(cublasLtGetStatusName)* status_name = nullptr;
  decltype(cublasLtGetStatusString)* status_text = nullptr;
  decltype(cublasLtMatmul)* matmul = nullptr;
  decltype(cublasLtMatmulAlgoGetHeuristic)* heuristic = nullptr;
  decltype(cublasLtMatmulDescCreate)* desc_create = nullptr;
  decltype(cublasLtMatmulDescDestroy)* desc_destroy = nullptr;
  decltype(cublasLtMatmulDescSetAttribute)* desc_set = nullptr;
  decltype(cublasLtMatrixLayoutCreate)* layout_create = nullptr;
  decltype(cublasLtMatrixLayoutDestroy)* layout_destroy = nullptr;
  decltype(cublasLtMatmulPreferenceCreate)* preference_create = nullptr;
  decltype(cublasLtMatmulPreferenceDestroy)* preference_destroy = nullptr;
  decltype(cublasLtMatmulPreferenceSetAttribute)* preference_set = nullptr;
};

/// Throws Error when the library cannot be loaded.
const CublasLtApi& cublaslt();

/// Throws Error naming the call, cuBLASLt's code and its text unless `status` is success; the place
/// is the caller's.
void cublas_check(cublasStatus_t status, std::string_view call,
                  std::source_location where = std::source_location::current());

}  // namespace neox
