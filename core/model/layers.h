#pragma once
// The layers of a transformer: explicit forward and backward. Forward fills `Saved`, the tensors
// that backward needs (in Context::keep). Backward has two halves: backward_input computes the
// input's gradient and fills `Gradients` (in Context::gradients), from which backward_weight
// computes the parameters' gradients, written or added. Activations are [rows, width] with rows =
// batch * seq.
//
// Under tensor parallelism Attention and Mlp hold some of the heads and some of the width. They see
// all rows, and produce this rank's part of a sum over the tensor ranks: outputs of forward, and
// input gradients of backward. Whoever calls them reduces (Block).

#include <optional>
#include <string>

#include "core/config/config.h"
#include "core/model/context.h"
#include "core/model/partition.h"

namespace neox {

/// What norms without a vector of weights multiply by: 1 (non_parametric_layernorm), 1/sqrt(h)
/// (scalenorm, whose weight is one number).
struct NormTables {
  NormTables() = default;
  NormTables(const ModelConfig& model, const Backend& ops, Stream& stream, DType compute,
             bool dry_run);
  OwnedTensor factors;  ///< [h]: T; empty for other norms
  OwnedTensor exact;    ///< [h]: f32; empty where T is f32
  std::size_t bytes() const {
    return (factors.tensor ? factors.tensor.bytes() : 0) +
           (exact.tensor ? exact.tensor.bytes() : 0);
  }
};

/// One of NormKind, of the residual stream's local rows or of heads. ScaleNorm is computed as rms
/// norm: g x / |x| = (g / sqrt h) x / sqrt(mean(x^2)), where |x| is sqrt(sum(x^2) + eps^2), which
/// differs from GPT-NeoX's max(|x|, eps) near eps only.
class Norm {
 public:
  struct Saved {
    ConstTensor x, mean, rstd;
  };
  /// Of the residual stream.
  Norm(ParameterStore& store, const std::string& name, const ModelConfig& model,
       const ModelPartition& partition);
  /// Of vectors of `width` elements; `sum`: over which ranks its gradients are added up. Kinds
  /// that need NormTables only for the model's hidden_size.
  Norm(ParameterStore& store, const std::string& name, const ModelConfig& model, NormKind kind,
       std::int64_t width, const ModelPartition& partition, GradientSum sum);
  void forward(const Context& ctx, ConstTensor x, Tensor y, Saved& saved) const;
  /// y again, from what forward saved.
  void repeat(const Context& ctx, const Saved& saved, Tensor y) const;
  /// dx = residual_grad + gradient through the norm; residual_grad may be empty or dx itself.
  /// Both halves in one pass, unless the backward is split.
  void backward(const Context& ctx, ConstTensor dy, const Saved& saved, ConstTensor residual_grad,
                Tensor dx) const;
  /// The second half of a split backward.
  void backward_weight(const Context& ctx, ConstTensor dy, const Saved& saved) const;

 private:
  void run(const Context& ctx, ConstTensor x, Tensor y, Tensor mean, Tensor rstd) const;
  void run_backward(const Context& ctx, ConstTensor dy, const Saved& saved,
                    ConstTensor residual_grad, Tensor dx, bool weights) const;

  /// ScaleNorm's weights as a vector, in scratch memory.
  Tensor spread_weight(const Context& ctx) const;
  void scale_norm_backward(const Context& ctx, ConstTensor dy, const Saved& saved,
                           ConstTensor residual_grad, Tensor dx, bool weights) const;
  bool has_mean() const {
    return kind_ == NormKind::layernorm || kind_ == NormKind::non_parametric_layernorm;
  }

  NormKind kind_;
  std::int64_t width_;
  float eps_;
  ParameterId weight_ = -1, bias_ = -1;
};

/// y = x W^T + b; several adjacent weights may act as one. Its rows (outputs) or its columns
/// (inputs) may be divided over the tensor ranks.
class Linear {
 public:
  /// One fused part: parameters "<name>.weight" and "<name>.bias".
  struct Part {
    std::string name;
    std::int64_t rows = 0;  ///< of the whole weight
    AxisRange held{};       ///< rows held here
    int holders = 1;        ///< ranks that hold the same rows, each seeing a part of the gradient
  };
  /// Outputs divided ("column-parallel" in the field's terms): every rank sees whole inputs.
  Linear(ParameterStore& store, const std::vector<Part>& parts, std::int64_t in, bool bias,
         InitMethod init, const ModelPartition& partition);
  /// Inputs divided ("row-parallel"): forward yields a part of a sum, to which the bias belongs
  /// once; tensor rank 0 adds it.
  Linear(ParameterStore& store, const std::string& name, std::int64_t out, std::int64_t in,
         AxisRange held, bool bias, InitMethod init, const ModelPartition& partition);

  std::int64_t out() const { return out_; }  ///< rows held here
  void forward(const Context& ctx, ConstTensor x, Tensor y) const;
  /// dx is overwritten, or added to with `accumulate`.
  void backward_input(const Context& ctx, ConstTensor dy, Tensor dx, bool accumulate) const;
  /// `x` as in forward.
  void backward_weight(const Context& ctx, ConstTensor dy, ConstTensor x) const;

 private:
  std::int64_t out_ = 0;
  int parts_ = 1;
  bool adds_bias_ = true;
  ParameterId weight_ = -1, bias_ = -1;
};

/// cos/sin tables of rotary position embedding: f32 [max_position, rotary_dim/2], times the
/// amplitude; angles by rotary_frequencies(), computed in f64.
struct RotaryTables {
  RotaryTables() = default;
  RotaryTables(const ModelConfig& model, Device device, Stream& stream, bool dry_run = false);
  OwnedTensor cos, sin;
  std::size_t bytes() const { return cos.tensor ? cos.tensor.bytes() + sin.tensor.bytes() : 0; }
};

/// Keys and values of earlier positions, for generation: each [batch, max_length,
/// kv_heads*head_dim].
struct KvCache {
  Tensor keys, values;
  std::int64_t length = 0;  ///< positions filled
};

/// Causal self-attention with its projections.
class Attention {
 public:
  struct Saved {
    ConstTensor qkv, out, lse;
    ConstTensor q, k;  ///< with QK-norm: normalised and rotated, [rows, heads * head_dim]
    Norm::Saved q_norm, k_norm;
  };
  struct Gradients {
    ConstTensor y, qkv;
    ConstTensor q, k;  ///< with QK-norm: of the norms' outputs
  };
  Attention(ParameterStore& store, const std::string& name, const ModelConfig& model,
            const ModelPartition& partition, int layer);
  /// y [rows, h] = attention(u) including the output bias, without dropout and residual.
  void forward(const Context& ctx, const RotaryTables& rotary, ConstTensor u, Tensor y,
               Saved& saved) const;
  /// As forward, for new positions that follow those in `cache`, which are appended to it.
  void forward_cached(const Context& ctx, const RotaryTables& rotary, ConstTensor u, Tensor y,
                      KvCache& cache) const;
  void backward_input(const Context& ctx, const RotaryTables& rotary, ConstTensor dy,
                      const Saved& saved, Tensor du, bool accumulate_du,
                      Gradients& gradients) const;
  void backward_weight(const Context& ctx, ConstTensor u, const Saved& saved,
                       const Gradients& gradients) const;

 private:
  struct Offsets {  // of q, k, v inside a row of the fused projection, and between heads
    std::int64_t q, k, v, head_stride;
  };
  Offsets offsets() const;
  AttentionProblem problem(const Context& ctx, std::int64_t key_length) const;
  struct QueryKeyValue {
    Heads q, k, v;
  };
  QueryKeyValue heads_of(const Context& ctx, Tensor qkv) const;
  void rotate(const Context& ctx, const RotaryTables& rotary, const QueryKeyValue& heads,
              bool inverse) const;
  /// The heads that attention takes: those of qkv, or what QK-norm makes of them, in `arena`.
  QueryKeyValue normalised(const Context& ctx, Tensor qkv, Arena& arena, Saved& saved) const;
  Tensor normalise(const Context& ctx, const Norm& norm, ConstHeads from, std::int64_t heads,
                   Arena& arena, Norm::Saved& saved) const;
  /// A copy of some heads without gaps, [rows * heads, head_dim], in scratch memory.
  Tensor packed(const Context& ctx, ConstHeads from, std::int64_t heads) const;
  void norm_backward(const Context& ctx, const Norm& norm, ConstTensor dy, ConstHeads x, Heads dx,
                     std::int64_t heads, const Norm::Saved& saved) const;

  HeadPartition partition_;
  std::int64_t heads_, kv_heads_;  // held here
  std::int64_t global_heads_, head_dim_;
  bool rotary_, alibi_;
  bool fused_per_head_;
  int layer_;
  AttentionKind kind_;
  std::int64_t window_;
  double dropout_;
  Linear qkv_, dense_;
  std::optional<Norm> q_norm_, k_norm_;  ///< per head, the same for all heads
};

/// Two linear layers around an activation, plain or gated.
class Mlp {
 public:
  struct Saved {
    ConstTensor hidden;
    ConstTensor activated;  ///< empty under selective recomputation
  };
  struct Gradients {
    ConstTensor y, hidden;
  };
  Mlp(ParameterStore& store, const std::string& name, const ModelConfig& model,
      const ModelPartition& partition);
  void forward(const Context& ctx, ConstTensor u, Tensor y, Saved& saved) const;
  void backward_input(const Context& ctx, ConstTensor dy, const Saved& saved, Tensor du,
                      bool accumulate_du, Gradients& gradients) const;
  void backward_weight(const Context& ctx, ConstTensor u, const Saved& saved,
                       const Gradients& gradients) const;

 private:
  void activate(const Context& ctx, ConstTensor hidden, Tensor activated) const;

  Activation activation_;
  bool gated_;
  std::int64_t width_;  // held here
  Linear in_, out_;
};

}  // namespace neox
