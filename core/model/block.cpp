#include "core/model/block.h"

namespace neox {

Block::Block(ParameterStore& store, const ModelConfig& model, int layer)
    : residual_(!model.gpt_j_residual ? Residual::sequential
                : model.gpt_j_tied    ? Residual::parallel_tied
                                      : Residual::parallel),
      layer_(layer),
      hidden_dropout_(model.hidden_dropout),
      norm1_(store, fmt::format("layers.{}.input_layernorm", layer), model),
      attention_(store, fmt::format("layers.{}.attention", layer), model, layer),
      norm2_(residual_ == Residual::parallel_tied
                 ? std::nullopt
                 : std::optional<Norm>(std::in_place, store,
                                       fmt::format("layers.{}.post_attention_layernorm", layer),
                                       model)),
      mlp_(store, fmt::format("layers.{}.mlp", layer), model) {}

Dropout Block::attention_output_dropout(const Context& ctx) const {
  return ctx.dropout(hidden_dropout_, RngPurpose::attention_output_dropout, layer_);
}

Dropout Block::mlp_output_dropout(const Context& ctx) const {
  return ctx.dropout(hidden_dropout_, RngPurpose::mlp_output_dropout, layer_);
}

template <class AttentionForward>
void Block::run_forward(const Context& ctx, ConstTensor x, Tensor y, Saved& saved,
                        AttentionForward&& attend) const {
  const ArenaScope scope(ctx.scratch);
  const auto drop_a = attention_output_dropout(ctx), drop_m = mlp_output_dropout(ctx);
  const Tensor u1 = ctx.keep.take(x.shape, ctx.dtype());
  const Tensor attended = ctx.scratch.take(x.shape, ctx.dtype());
  const Tensor mlp_out = ctx.scratch.take(x.shape, ctx.dtype());
  norm1_.forward(ctx, x, u1, saved.norm1);
  attend(u1, attended);
  if (residual_ == Residual::parallel_tied) {
    mlp_.forward(ctx, u1, mlp_out, saved.mlp);
    ctx.ops.residual_add(ctx.stream, x, attended, drop_a, mlp_out, drop_m, y);
    return;
  }
  const Tensor u2 = ctx.keep.take(x.shape, ctx.dtype());
  if (residual_ == Residual::parallel) {
    norm2_->forward(ctx, x, u2, saved.norm2);
    mlp_.forward(ctx, u2, mlp_out, saved.mlp);
    ctx.ops.residual_add(ctx.stream, x, attended, drop_a, mlp_out, drop_m, y);
    return;
  }
  const Tensor x1 = ctx.keep.take(x.shape, ctx.dtype());
  ctx.ops.residual_add(ctx.stream, x, attended, drop_a, {}, {}, x1);
  norm2_->forward(ctx, x1, u2, saved.norm2);
  mlp_.forward(ctx, u2, mlp_out, saved.mlp);
  ctx.ops.residual_add(ctx.stream, x1, mlp_out, drop_m, {}, {}, y);
}

void Block::forward(const Context& ctx, const RotaryTables& rotary, ConstTensor x, Tensor y,
                    Saved& saved) const {
  run_forward(ctx, x, y, saved, [&](ConstTensor u, Tensor out) {
    attention_.forward(ctx, rotary, u, out, saved.attention);
  });
}

void Block::forward_cached(const Context& ctx, const RotaryTables& rotary, ConstTensor x, Tensor y,
                           KvCache& cache) const {
  const ArenaScope scope(ctx.keep);
  Saved unused;
  run_forward(ctx, x, y, unused, [&](ConstTensor u, Tensor out) {
    attention_.forward_cached(ctx, rotary, u, out, cache);
  });
}

Tensor Block::through_dropout(const Context& ctx, const Dropout& dropout, Tensor gradient,
                              const Tensor& buffer) {
  if (dropout.p == 0.0f) return gradient;
  ctx.ops.dropout(ctx.stream, gradient, dropout, buffer);
  return buffer;
}

void Block::backward(const Context& ctx, const RotaryTables& rotary, Tensor dy, const Saved& saved,
                     Tensor dx) const {
  const ArenaScope scope(ctx.scratch);
  const auto drop_a = attention_output_dropout(ctx), drop_m = mlp_output_dropout(ctx);
  const Tensor du = ctx.scratch.take(dy.shape, ctx.dtype());
  const Tensor masked = hidden_dropout_ > 0.0 ? ctx.scratch.take(dy.shape, ctx.dtype()) : Tensor{};
  mlp_.backward(ctx, through_dropout(ctx, drop_m, dy, masked), saved.mlp, du, false);
  if (residual_ == Residual::parallel_tied) {
    attention_.backward(ctx, rotary, through_dropout(ctx, drop_a, dy, masked), saved.attention, du,
                        true);
    norm1_.backward(ctx, du, saved.norm1, dy, dx);
    return;
  }
  if (residual_ == Residual::sequential) {
    norm2_->backward(ctx, du, saved.norm2, dy, dx);  // gradient of x1
    attention_.backward(ctx, rotary, through_dropout(ctx, drop_a, dx, masked), saved.attention, du,
                        false);
    norm1_.backward(ctx, du, saved.norm1, dx, dx);
    return;
  }
  // Parallel: dy is still needed by the attention branch, so dx may not overwrite it yet.
  const Tensor through_mlp = ctx.scratch.take(dy.shape, ctx.dtype());
  norm2_->backward(ctx, du, saved.norm2, dy, through_mlp);
  attention_.backward(ctx, rotary, through_dropout(ctx, drop_a, dy, masked), saved.attention, du,
                      false);
  norm1_.backward(ctx, du, saved.norm1, through_mlp, dx);
}

}  // namespace neox
