#include "kernels/cuda/cuda_backend.h"

namespace neox {

CudaBackend::CudaBackend(Device device, const BackendOptions& options)
    : CudaLinear(device, {.tf32 = options.tf32, .deterministic = options.deterministic}),
      CudaNorm(device),
      CudaAttention(device),
      CudaElementwise(device),
      CudaEmbedding(device),
      CudaLoss(device),
      CudaOptimizer(device),
      CudaFactored(device),
      CudaHash(device),
      device_(device),
      library_attention_(options.library_attention),
      cudnn_(device, options.deterministic) {}

bool CudaBackend::fast(DType dtype) const {
  return dtype == DType::f32 || dtype == DType::bf16 || dtype == DType::f16;
}

void CudaBackend::attention(Stream& stream, const AttentionProblem& problem, ConstHeads q,
                            ConstHeads k, ConstHeads v, Tensor out, Tensor lse) const {
  if (library_attention_ && cudnn_.why_not(problem, q, k, v).empty()) {
    cudnn_.attention(stream, problem, q, k, v, out, lse);
  } else {
    CudaAttention::attention(stream, problem, q, k, v, out, lse);
  }
}

void CudaBackend::attention_backward(Stream& stream, const AttentionProblem& problem, ConstHeads q,
                                     ConstHeads k, ConstHeads v, ConstTensor out, ConstTensor lse,
                                     ConstTensor dout, Heads dq, Heads dk, Heads dv,
                                     Tensor workspace) const {
  if (library_attention_ && cudnn_.why_not_backward(problem, q, k, v, dq, dk, dv).empty()) {
    cudnn_.attention_backward(stream, problem, q, k, v, out, lse, dout, dq, dk, dv);
  } else {
    CudaAttention::attention_backward(stream, problem, q, k, v, out, lse, dout, dq, dk, dv,
                                      workspace);
  }
}

}  // namespace neox
