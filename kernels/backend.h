#pragma once
// The operator inventory. Every operator has its forward and backward side by side in the header of
// its family; a backend that misses one does not compile.
//
// Conventions: T is the compute dtype (f32, bf16 or f16) of the activations. Tensors are contiguous
// device memory; sizes come from their shapes. Outputs never alias inputs unless the operator says
// so. Work is ordered on the stream. Gradients of parameters are f32. Operators trust their
// callers: shapes are checked once, where the model is built.

#include <memory>
#include <string_view>

#include "kernels/attention.h"
#include "kernels/elementwise.h"
#include "kernels/embedding.h"
#include "kernels/factored.h"
#include "kernels/hash.h"
#include "kernels/linear.h"
#include "kernels/loss.h"
#include "kernels/norm.h"
#include "kernels/optimizer.h"

namespace neox {

/// The families are virtual bases: a backend may be put together from classes that each implement
/// one of them.
class Backend : public virtual LinearOps,
                public virtual NormOps,
                public virtual AttentionOps,
                public virtual ElementwiseOps,
                public virtual EmbeddingOps,
                public virtual LossOps,
                public virtual OptimizerOps,
                public virtual FactoredOps,
                public virtual HashOps {
 public:
  virtual std::string_view name() const = 0;
  virtual Device device() const = 0;
  /// True when f32-accumulating products of this dtype run on the hardware's own instructions.
  virtual bool fast(DType dtype) const = 0;
};

struct BackendOptions {
  /// The same program on the same device always computes the same bits. The CPU's always does.
  bool deterministic = true;
  /// Attention of a library where it has the problem (cuDNN's); else always our own.
  bool library_attention = true;
  /// Inputs of f32 products are rounded to TF32, where the device has it. Never the CPU's.
  bool tf32 = false;
};

/// The backend that computes on `device`, whose runtime must be registered (choose_device). Throws
/// Error when it was not built.
std::unique_ptr<Backend> make_backend(Device device, const BackendOptions& options = {});

}  // namespace neox
