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
class Block {
 public:
  struct Saved {
    Norm::Saved norm1, norm2;
    Attention::Saved attention;
    Mlp::Saved mlp;
  };
  Block(ParameterStore& store, const ModelConfig& model, int layer);

  /// x, y: [rows, h]; y is not x.
  void forward(const Context& ctx, const RotaryTables& rotary, ConstTensor x, Tensor y,
               Saved& saved) const;
  /// Inference on new positions only; keeps nothing.
  void forward_cached(const Context& ctx, const RotaryTables& rotary, ConstTensor x, Tensor y,
                      KvCache& cache) const;
  /// dx may be dy.
  void backward(const Context& ctx, const RotaryTables& rotary, Tensor dy, const Saved& saved,
                Tensor dx) const;

 private:
  enum class Residual : std::uint8_t { sequential, parallel, parallel_tied };
  template <class AttentionForward>
  void run_forward(const Context& ctx, ConstTensor x, Tensor y, Saved& saved,
                   AttentionForward&& attend) const;
  Dropout attention_output_dropout(const Context& ctx) const;
  Dropout mlp_output_dropout(const Context& ctx) const;
  /// `gradient` seen through dropout: itself without dropout, otherwise a masked copy in `buffer`.
  static Tensor through_dropout(const Context& ctx, const Dropout& dropout, Tensor gradient,
                                const Tensor& buffer);

  Residual residual_;
  int layer_;
  double hidden_dropout_;
  Norm norm1_;
  Attention attention_;
  std::optional<Norm> norm2_;
  Mlp mlp_;
};

}  // namespace neox
