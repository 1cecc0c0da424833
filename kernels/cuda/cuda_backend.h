#pragma once
// The CUDA engine: one class per family of operators, put together.

#include "kernels/backend.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/cudnn_attention.h"
#include "kernels/cuda/elementwise.h"
#include "kernels/cuda/embedding.h"
#include "kernels/cuda/factored.h"
#include "kernels/cuda/hash.h"
#include "kernels/cuda/linear.h"
#include "kernels/cuda/loss.h"
#include "kernels/cuda/norm.h"
#include "kernels/cuda/optimizer.h"

namespace neox {

/// On an NVIDIA GPU, or on a simulated one, where the same kernels run on the host. Attention is
/// cuDNN's where it has the problem, else our own.
class CudaBackend final : public Backend,
                          public CudaLinear,
                          public CudaNorm,
                          public CudaAttention,
                          public CudaElementwise,
                          public CudaEmbedding,
                          public CudaLoss,
                          public CudaOptimizer,
                          public CudaFactored,
                          public CudaHash {
 public:
  /// The device's runtime must be registered.
  explicit CudaBackend(Device device, const BackendOptions& options = {});

  std::string_view name() const override { return "cuda"; }
  Device device() const override { return device_; }
  /// Tensor cores since sm_80 take f16 and bf16; f32 products run on the plain units.
  bool fast(DType dtype) const override;

  void attention(Stream&, const AttentionProblem& problem, ConstHeads q, ConstHeads k, ConstHeads v,
                 Tensor out, Tensor lse) const override;
  void attention_backward(Stream&, const AttentionProblem& problem, ConstHeads q, ConstHeads k,
                          ConstHeads v, ConstTensor out, ConstTensor lse, ConstTensor dout,
                          Heads dq, Heads dk, Heads dv, Tensor workspace) const override;

 private:
  Device device_;
  bool library_attention_;
  CudnnAttention cudnn_;
};

}  // namespace neox
