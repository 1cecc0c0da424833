#pragma once
// The vocabulary shared by configuration, kernels and models.

#include <cstdint>

namespace neox {

/// Elementwise non-linearity. Gated forms use `act(gate) * up`.
enum class Activation : std::uint8_t {
  gelu,       ///< x/2 (1 + erf(x/sqrt 2))
  gelu_tanh,  ///< x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))
  silu,       ///< x sigmoid(x)
  relu,
  squared_relu,  ///< max(x, 0)^2
  mish,          ///< x tanh(log(1 + e^x))
  softsign,      ///< x / (1 + |x|)
  sigmoid,       ///< for glu
  identity       ///< for bilinear
};

/// Formulas in docs/config.md "norm".
enum class NormKind : std::uint8_t { layernorm, rmsnorm, scalenorm, non_parametric_layernorm };

enum class PositionEmbedding : std::uint8_t { rotary, learned, sinusoidal, alibi, none };

/// How rotary embedding reaches beyond the lengths it was trained on; formulas in
/// core/model/rotary_frequencies.h.
enum class RopeScaling : std::uint8_t { none, linear, ntk, yarn, llama3 };

/// Which keys the attention of a layer sees (docs/attention.md).
enum class AttentionKind : std::uint8_t {
  global,
  window,  ///< sliding_window_width keys and itself
  local,   ///< block-sparse, as the following; patterns in core/model/block_patterns.h
  sparse_fixed,
  sparse_variable,
  bigbird,
  bslongformer
};
constexpr bool is_sparse(AttentionKind kind) {
  return kind >= AttentionKind::local;
}

/// Rules of docs/config.md "init_method"; formulas in core/model/init.h.
enum class InitMethod : std::uint8_t {
  normal,
  scaled_normal,
  single_residual_scaled_normal,
  small_init,
  wang_init,
  xavier_uniform,
  xavier_normal
};

}  // namespace neox
