#pragma once
// One transformer layer: attention and MLP on a residual stream, sequential or parallel.

#include <optional>

#include "core/model/layers.h"

namespace neox {

/// With A, M the sub-layers including their output bias, d hidden dropout (neox config keys in
/// brackets):
///   sequential:                        x1 = x + d(A(ln1 x)); y = x1 + d(M(ln2 x1))
///   parallel [gpt_j_residual]:         y = x + d(A(ln1 x)) + d(M(ln2 x))
///   parallel, one norm [gpt_j_tied]:   u = ln1 x; y = x + d(A u) + d(M u)
///
/// This is where tensor-parallel ranks talk. Norms, dropout and residual sums work on the residual
/// stream's local rows; their outputs u are gathered (when rows are sharded) before A and M, whose
/// partial outputs are reduced: once per sub-layer, once for both in the parallel forms, where the
/// masks of d are applied before the sum. Backward mirrors it, each message beside a
/// weight-gradient product.
class Block {
 public:
  struct Saved {
    Norm::Saved norm1, norm2;
    ConstTensor u1, u2;  ///< outputs of the norms; empty under selective recomputation
    Attention::Saved attention;
    Mlp::Saved mlp;
  };
  /// What backward_weight needs besides Saved.
  struct Gradients {
    ConstTensor u1, u2;  ///< of the outputs of the norms
    Attention::Gradients attention;
    Mlp::Gradients mlp;
  };
  Block(ParameterStore& store, const ModelConfig& model, const ModelPartition& partition,
        int layer);

  /// x, y: [local rows, h]; y is not x.
  void forward(const Context& ctx, const RotaryTables& rotary, ConstTensor x, Tensor y,
               Saved& saved) const;
  /// Inference on new positions only; keeps nothing.
  void forward_cached(const Context& ctx, const RotaryTables& rotary, ConstTensor x, Tensor y,
                      KvCache& cache) const;
  /// Input and parameter gradients. dx may be dy. With a split backward (Context) only the input
  /// gradient: dx is not dy, and dy stays untouched until backward_weight, the second half.
  void backward(const Context& ctx, const RotaryTables& rotary, Tensor dy, const Saved& saved,
                Tensor dx, Gradients& gradients) const;
  void backward_weight(const Context& ctx, const Saved& saved, const Gradients& gradients) const;
  /// Its index in the whole model.
  int layer() const { return layer_; }

 private:
  enum class Residual : std::uint8_t { sequential, parallel, parallel_tied };
  struct Dropouts {
    Dropout attention, mlp;
  };
  Dropouts local_dropouts(const Context& ctx) const;
  Dropouts all_row_dropouts(const Context& ctx) const;

  template <class AttentionForward>
  void run_forward(const Context& ctx, ConstTensor x, Tensor y, Saved& saved,
                   AttentionForward&& attend) const;
  template <class AttentionForward>
  void forward_parallel(const Context& ctx, ConstTensor x, ConstTensor u1, Tensor y, Saved& saved,
                        AttentionForward&& attend) const;
  void backward_sequential(const Context& ctx, const RotaryTables& rotary, Tensor dy,
                           const Saved& saved, Tensor dx, Gradients& gradients) const;
  void backward_parallel(const Context& ctx, const RotaryTables& rotary, Tensor dy,
                         const Saved& saved, Tensor dx, Gradients& gradients) const;
  void backward_tied(const Context& ctx, const RotaryTables& rotary, Tensor dy, const Saved& saved,
                     Tensor dx, Gradients& gradients) const;
  /// Backward through one sub-layer from dy (all rows, before dropout): du, and, unless split, its
  /// weight gradients while du is being reduced.
  void backward_attention(const Context& ctx, const RotaryTables& rotary, ConstTensor dy,
                          const Saved& saved, Tensor du, Gradients& gradients) const;
  void backward_mlp(const Context& ctx, ConstTensor dy, const Saved& saved, Tensor du,
                    Gradients& gradients) const;
  /// All rows of a norm's output, on their way.
  TensorParallel::Gathering gather_normed(const Context& ctx, const Norm& norm,
                                          const Norm::Saved& saved, ConstTensor u) const;

  Residual residual_;
  int layer_;
  double hidden_dropout_;
  Norm norm1_;
  Attention attention_;
  std::optional<Norm> norm2_;
  Mlp mlp_;
};

}  // namespace neox
