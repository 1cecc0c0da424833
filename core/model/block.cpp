#include "core/model/block.h"

namespace neox {
namespace {

// `gradient` seen through dropout: itself without dropout, otherwise a masked copy.
ConstTensor through_dropout(const Context& ctx, const Dropout& dropout, ConstTensor gradient) {
  if (dropout.p == 0.0f) return gradient;
  const Tensor masked = ctx.gradients.take(gradient.shape, ctx.dtype());
  ctx.ops.dropout(ctx.stream, gradient, dropout, masked);
  return masked;
}

}  // namespace

Block::Block(ParameterStore& store, const ModelConfig& model, const ModelPartition& partition,
             int layer)
    : residual_(!model.gpt_j_residual ? Residual::sequential
                : model.gpt_j_tied    ? Residual::parallel_tied
                                      : Residual::parallel),
      layer_(layer),
      hidden_dropout_(model.hidden_dropout),
      norm1_(store, fmt::format("layers.{}.input_layernorm", layer), model, partition),
      attention_(store, fmt::format("layers.{}.attention", layer), model, partition, layer),
      norm2_(residual_ == Residual::parallel_tied
                 ? std::nullopt
                 : std::optional<Norm>(std::in_place, store,
                                       fmt::format("layers.{}.post_attention_layernorm", layer),
                                       model, partition)),
      mlp_(store, fmt::format("layers.{}.mlp", layer), model, partition) {}

Block::Dropouts Block::local_dropouts(const Context& ctx) const {
  return {ctx.dropout(hidden_dropout_, RngPurpose::attention_output_dropout, layer_),
          ctx.dropout(hidden_dropout_, RngPurpose::mlp_output_dropout, layer_)};
}

Block::Dropouts Block::all_row_dropouts(const Context& ctx) const {
  return {ctx.dropout_all_rows(hidden_dropout_, RngPurpose::attention_output_dropout, layer_),
          ctx.dropout_all_rows(hidden_dropout_, RngPurpose::mlp_output_dropout, layer_)};
}

template <class AttentionForward>
void Block::run_forward(const Context& ctx, ConstTensor x, Tensor y, Saved& saved,
                        AttentionForward&& attend) const {
  const ArenaScope scope(ctx.scratch);
  const auto& tensor = ctx.tensor;
  Arena& normed = ctx.selective ? ctx.scratch : ctx.keep;
  const Tensor u1 = normed.take(x.shape, ctx.dtype());
  norm1_.forward(ctx, x, u1, saved.norm1);
  saved.u1 = ctx.selective ? ConstTensor{} : ConstTensor(u1);
  if (residual_ != Residual::sequential) {
    forward_parallel(ctx, x, u1, y, saved, attend);
    return;
  }
  const auto drop = local_dropouts(ctx);
  const Tensor x1 = ctx.keep.take(x.shape, ctx.dtype());
  {
    const ArenaScope inner(ctx.scratch);
    const Tensor attended = ctx.scratch.take(x.shape, ctx.dtype());
    const Tensor part = tensor.partial(ctx.scratch, attended);
    attend(tensor.gather(ctx.stream, ctx.scratch, u1).wait(ctx.stream), part);
    tensor.reduce(ctx.stream, part, attended).wait(ctx.stream);
    ctx.ops.residual_add(ctx.stream, x, attended, drop.attention, {}, {}, x1);
  }
  const Tensor u2 = normed.take(x.shape, ctx.dtype());
  norm2_->forward(ctx, x1, u2, saved.norm2);
  saved.u2 = ctx.selective ? ConstTensor{} : ConstTensor(u2);
  const Tensor mlp_out = ctx.scratch.take(x.shape, ctx.dtype());
  const Tensor part = tensor.partial(ctx.scratch, mlp_out);
  mlp_.forward(ctx, tensor.gather(ctx.stream, ctx.scratch, u2).wait(ctx.stream), part, saved.mlp);
  tensor.reduce(ctx.stream, part, mlp_out).wait(ctx.stream);
  ctx.ops.residual_add(ctx.stream, x1, mlp_out, drop.mlp, {}, {}, y);
}

template <class AttentionForward>
void Block::forward_parallel(const Context& ctx, ConstTensor x, ConstTensor u1, Tensor y,
                             Saved& saved, AttentionForward&& attend) const {
  const auto& tensor = ctx.tensor;
  auto u1_on_its_way = tensor.gather(ctx.stream, ctx.scratch, u1);
  auto u2_on_its_way = u1_on_its_way;
  if (residual_ == Residual::parallel) {
    Arena& normed = ctx.selective ? ctx.scratch : ctx.keep;
    const Tensor u2 = normed.take(x.shape, ctx.dtype());
    norm2_->forward(ctx, x, u2, saved.norm2);
    saved.u2 = ctx.selective ? ConstTensor{} : ConstTensor(u2);
    u2_on_its_way = tensor.gather(ctx.stream, ctx.scratch, u2);
  }
  const Shape all_rows{ctx.batch.rows(), x.cols()};
  const Tensor attended = ctx.scratch.take(all_rows, ctx.dtype());
  const Tensor mlp_out = ctx.scratch.take(all_rows, ctx.dtype());
  attend(u1_on_its_way.wait(ctx.stream), attended);
  mlp_.forward(ctx, u2_on_its_way.wait(ctx.stream), mlp_out, saved.mlp);
  const auto drop = all_row_dropouts(ctx);
  if (tensor.alone()) {
    ctx.ops.residual_add(ctx.stream, x, attended, drop.attention, mlp_out, drop.mlp, y);
    return;
  }
  // A mask keeps or drops an element on every rank alike, so it may be applied to the parts.
  ctx.ops.residual_add(ctx.stream, {}, attended, drop.attention, mlp_out, drop.mlp, attended);
  const Tensor sum = tensor.rows_sharded() ? ctx.scratch.take(x.shape, ctx.dtype()) : attended;
  tensor.reduce(ctx.stream, attended, sum).wait(ctx.stream);
  ctx.ops.residual_add(ctx.stream, x, sum, {}, {}, {}, y);
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

TensorParallel::Gathering Block::gather_normed(const Context& ctx, const Norm& norm,
                                               const Norm::Saved& saved, ConstTensor u) const {
  if (!u) {
    const Tensor again = ctx.scratch.take(saved.x.shape, ctx.dtype());
    norm.repeat(ctx, saved, again);
    u = again;
  }
  return ctx.tensor.gather(ctx.stream, ctx.scratch, u);
}

void Block::backward_attention(const Context& ctx, const RotaryTables& rotary, ConstTensor dy,
                               const Saved& saved, Tensor du, Gradients& gradients) const {
  const ArenaScope scope(ctx.scratch);
  const GradientScope gradient_scope(ctx);
  const Tensor part = ctx.tensor.partial(ctx.scratch, du);
  const ConstTensor masked = through_dropout(ctx, all_row_dropouts(ctx).attention, dy);
  const bool weights = !ctx.split_backward();
  const auto u =
      weights ? gather_normed(ctx, norm1_, saved.norm1, saved.u1) : TensorParallel::Gathering{};
  attention_.backward_input(ctx, rotary, masked, saved.attention, part, false, gradients.attention);
  const Work reduction = ctx.tensor.reduce(ctx.stream, part, du);
  if (weights) {
    attention_.backward_weight(ctx, u.wait(ctx.stream), saved.attention, gradients.attention);
  }
  reduction.wait(ctx.stream);
}

void Block::backward_mlp(const Context& ctx, ConstTensor dy, const Saved& saved, Tensor du,
                         Gradients& gradients) const {
  const ArenaScope scope(ctx.scratch);
  const GradientScope gradient_scope(ctx);
  const Tensor part = ctx.tensor.partial(ctx.scratch, du);
  const ConstTensor masked = through_dropout(ctx, all_row_dropouts(ctx).mlp, dy);
  const bool weights = !ctx.split_backward();
  const auto u =
      weights ? gather_normed(ctx, *norm2_, saved.norm2, saved.u2) : TensorParallel::Gathering{};
  mlp_.backward_input(ctx, masked, saved.mlp, part, false, gradients.mlp);
  const Work reduction = ctx.tensor.reduce(ctx.stream, part, du);
  if (weights) mlp_.backward_weight(ctx, u.wait(ctx.stream), saved.mlp, gradients.mlp);
  reduction.wait(ctx.stream);
}

void Block::backward_sequential(const Context& ctx, const RotaryTables& rotary, Tensor dy,
                                const Saved& saved, Tensor dx, Gradients& gradients) const {
  const bool split = ctx.split_backward();
  const Tensor du2 = ctx.gradients.take(dy.shape, ctx.dtype());
  const Tensor du1 = split ? ctx.gradients.take(dy.shape, ctx.dtype()) : du2;
  const Tensor dx1 = split ? ctx.gradients.take(dy.shape, ctx.dtype()) : dx;
  gradients.u1 = du1;
  gradients.u2 = du2;
  {
    const GradientScope scope(ctx);
    const auto all = ctx.tensor.gather(ctx.stream, ctx.gradients, dy);
    backward_mlp(ctx, all.wait(ctx.stream), saved, du2, gradients);
  }
  norm2_->backward(ctx, du2, saved.norm2, dy, dx1);
  {
    const GradientScope scope(ctx);
    const auto all = ctx.tensor.gather(ctx.stream, ctx.gradients, dx1);
    backward_attention(ctx, rotary, all.wait(ctx.stream), saved, du1, gradients);
  }
  norm1_.backward(ctx, du1, saved.norm1, dx1, dx);
}

void Block::backward_parallel(const Context& ctx, const RotaryTables& rotary, Tensor dy,
                              const Saved& saved, Tensor dx, Gradients& gradients) const {
  const Tensor du2 = ctx.gradients.take(dy.shape, ctx.dtype());
  const Tensor du1 = ctx.split_backward() ? ctx.gradients.take(dy.shape, ctx.dtype()) : du2;
  gradients.u1 = du1;
  gradients.u2 = du2;
  // dy is still needed by the attention branch, so dx may not overwrite it yet.
  const Tensor through_mlp = ctx.scratch.take(dy.shape, ctx.dtype());
  {
    const GradientScope scope(ctx);
    const ConstTensor all = ctx.tensor.gather(ctx.stream, ctx.gradients, dy).wait(ctx.stream);
    backward_mlp(ctx, all, saved, du2, gradients);
    norm2_->backward(ctx, du2, saved.norm2, dy, through_mlp);
    backward_attention(ctx, rotary, all, saved, du1, gradients);
  }
  norm1_.backward(ctx, du1, saved.norm1, through_mlp, dx);
}

void Block::backward_tied(const Context& ctx, const RotaryTables& rotary, Tensor dy,
                          const Saved& saved, Tensor dx, Gradients& gradients) const {
  const Tensor du = ctx.gradients.take(dy.shape, ctx.dtype());
  gradients.u1 = du;
  {
    const ArenaScope scope(ctx.scratch);
    const GradientScope gradient_scope(ctx);
    const auto drop = all_row_dropouts(ctx);
    const bool weights = !ctx.split_backward();
    const Tensor part = ctx.tensor.partial(ctx.scratch, du);
    const ConstTensor all = ctx.tensor.gather(ctx.stream, ctx.gradients, dy).wait(ctx.stream);
    const auto u =
        weights ? gather_normed(ctx, norm1_, saved.norm1, saved.u1) : TensorParallel::Gathering{};
    {
      const GradientScope inner(ctx);
      mlp_.backward_input(ctx, through_dropout(ctx, drop.mlp, all), saved.mlp, part, false,
                          gradients.mlp);
      if (weights) mlp_.backward_weight(ctx, u.wait(ctx.stream), saved.mlp, gradients.mlp);
    }
    attention_.backward_input(ctx, rotary, through_dropout(ctx, drop.attention, all),
                              saved.attention, part, true, gradients.attention);
    const Work reduction = ctx.tensor.reduce(ctx.stream, part, du);
    if (weights) {
      attention_.backward_weight(ctx, u.wait(ctx.stream), saved.attention, gradients.attention);
    }
    reduction.wait(ctx.stream);
  }
  norm1_.backward(ctx, du, saved.norm1, dy, dx);
}

void Block::backward(const Context& ctx, const RotaryTables& rotary, Tensor dy, const Saved& saved,
                     Tensor dx, Gradients& gradients) const {
  const ArenaScope scope(ctx.scratch);
  switch (residual_) {
    case Residual::sequential:
      return backward_sequential(ctx, rotary, dy, saved, dx, gradients);
    case Residual::parallel:
      return backward_parallel(ctx, rotary, dy, saved, dx, gradients);
    case Residual::parallel_tied:
      return backward_tied(ctx, rotary, dy, saved, dx, gradients);
  }
}

void Block::backward_weight(const Context& ctx, const Saved& saved,
                            const Gradients& gradients) const {
  const ArenaScope scope(ctx.scratch);
  const auto u1 = gather_normed(ctx, norm1_, saved.norm1, saved.u1);
  norm1_.backward_weight(ctx, gradients.u1, saved.norm1);
  const bool tied = residual_ == Residual::parallel_tied;
  const auto u2 = tied ? u1 : gather_normed(ctx, *norm2_, saved.norm2, saved.u2);
  if (!tied) norm2_->backward_weight(ctx, gradients.u2, saved.norm2);
  mlp_.backward_weight(ctx, u2.wait(ctx.stream), saved.mlp, gradients.mlp);
  attention_.backward_weight(ctx, u1.wait(ctx.stream), saved.attention, gradients.attention);
}

}  // namespace neox
