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

#include <string>

#include "core/config/config.h"
#include "core/model/context.h"
#include "core/model/partition.h"

namespace neox {

/// LayerNorm or RMSNorm of the residual stream's local rows.
class Norm {
 public:
  struct Saved {
    ConstTensor x, mean, rstd;
  };
  Norm(ParameterStore& store, const std::string& name, const ModelConfig& model,
       const ModelPartition& partition);
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

  NormKind kind_;
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

/// cos/sin tables of rotary position embedding: f32 [max_position, rotary_dim/2],
/// angle = position * base^(-2i/rotary_dim), computed in f64.
struct RotaryTables {
  RotaryTables() = default;
  RotaryTables(std::int64_t max_position, std::int64_t rotary_dim, double base, Device device,
               Stream& stream);
  OwnedTensor cos, sin;
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
  };
  struct Gradients {
    ConstTensor y, qkv;
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
  void rotate(const Context& ctx, const RotaryTables& rotary, Tensor qkv, bool inverse) const;

  HeadPartition partition_;
  std::int64_t heads_, kv_heads_;  // held here
  std::int64_t global_heads_, head_dim_;
  bool rotary_;
  bool fused_per_head_;
  int layer_;
  double dropout_;
  Linear qkv_, dense_;
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
