#pragma once
// The layers of a transformer: explicit forward and backward. Forward fills `Saved`, the tensors
// that backward needs (in Context::keep); backward consumes it, writes or adds the parameters'
// gradients, and computes the input's gradient. Activations are [rows, width] with rows = batch *
// seq.

#include <string>

#include "core/config/config.h"
#include "core/model/context.h"

namespace neox {

/// LayerNorm or RMSNorm.
class Norm {
 public:
  struct Saved {
    ConstTensor x, mean, rstd;
  };
  Norm(ParameterStore& store, const std::string& name, const ModelConfig& model);
  void forward(const Context& ctx, ConstTensor x, Tensor y, Saved& saved) const;
  /// dx = residual_grad + gradient through the norm; residual_grad may be empty or dx itself.
  void backward(const Context& ctx, ConstTensor dy, const Saved& saved, ConstTensor residual_grad,
                Tensor dx) const;

 private:
  NormKind kind_;
  float eps_;
  ParameterId weight_ = -1, bias_ = -1;
};

/// y = x W^T + b; several adjacent weights may act as one.
class Linear {
 public:
  /// `outputs`: (name, rows) of each fused part; parameters "<name>.weight" and "<name>.bias".
  struct Part {
    std::string name;
    std::int64_t rows;
  };
  Linear(ParameterStore& store, const std::vector<Part>& parts, std::int64_t in, bool bias,
         InitMethod init);
  std::int64_t out() const { return out_; }
  void forward(const Context& ctx, ConstTensor x, Tensor y) const;
  /// `x` as in forward. dx is overwritten, or added to with `accumulate_dx`; empty dx: not
  /// computed.
  void backward(const Context& ctx, ConstTensor dy, ConstTensor x, Tensor dx,
                bool accumulate_dx) const;

 private:
  std::int64_t out_ = 0;
  int parts_ = 1;
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
    ConstTensor u, qkv, out, lse;
  };
  Attention(ParameterStore& store, const std::string& name, const ModelConfig& model, int layer);
  /// y [rows, h] = attention(u) including the output bias, without dropout and residual.
  void forward(const Context& ctx, const RotaryTables& rotary, ConstTensor u, Tensor y,
               Saved& saved) const;
  /// As forward, for new positions that follow those in `cache`, which are appended to it.
  void forward_cached(const Context& ctx, const RotaryTables& rotary, ConstTensor u, Tensor y,
                      KvCache& cache) const;
  void backward(const Context& ctx, const RotaryTables& rotary, ConstTensor dy, const Saved& saved,
                Tensor du, bool accumulate_du) const;

 private:
  struct Offsets {  // of q, k, v inside a row of the fused projection, and between heads
    std::int64_t q, k, v, head_stride;
  };
  Offsets offsets() const;
  AttentionProblem problem(const Context& ctx, std::int64_t key_length) const;
  void rotate(const Context& ctx, const RotaryTables& rotary, Tensor qkv, bool inverse) const;

  std::int64_t heads_, kv_heads_, head_dim_;
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
    ConstTensor u, hidden, activated;
  };
  Mlp(ParameterStore& store, const std::string& name, const ModelConfig& model);
  void forward(const Context& ctx, ConstTensor u, Tensor y, Saved& saved) const;
  void backward(const Context& ctx, ConstTensor dy, const Saved& saved, Tensor du,
                bool accumulate_du) const;

 private:
  Activation activation_;
  bool gated_;
  std::int64_t width_;
  Linear in_, out_;
};

}  // namespace neox
