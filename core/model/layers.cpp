#include "core/model/layers.h"

#include <cmath>
#include <vector>

namespace neox {
namespace {

// A vector that every tensor rank holds alike.
ParameterSpec replicated_vector(const std::string& name, std::int64_t n, InitRule::Kind kind,
                                const ModelPartition& partition, GradientSum sum) {
  ParameterSpec spec{name, Shape{n}, Slice::whole(Shape{n}), {kind, InitMethod::normal}};
  spec.sum = sum;
  spec.counted = partition.tensor_rank == 0;
  return spec;
}

}  // namespace

// ---- Norm ---------------------------------------------------------------------------------------

namespace {

double epsilon_of(NormKind kind, const ModelConfig& model, std::int64_t width) {
  switch (kind) {
    case NormKind::layernorm:
    case NormKind::non_parametric_layernorm:
      return model.layernorm_epsilon;
    case NormKind::rmsnorm:
      return model.rms_norm_epsilon;
    case NormKind::scalenorm:  // of the mean of squares
      return model.scalenorm_epsilon * model.scalenorm_epsilon / static_cast<double>(width);
  }
  fail("internal error: unknown norm");
}

}  // namespace

NormTables::NormTables(const ModelConfig& model, const Backend& ops, Stream& stream, DType compute,
                       bool dry_run) {
  const bool scale = model.norm == NormKind::scalenorm;
  if (!scale && model.norm != NormKind::non_parametric_layernorm) return;
  const Shape shape{model.hidden_size};
  factors = OwnedTensor(shape, compute, ops.device(), dry_run);
  // Gradients are f32, and so is what is multiplied with them.
  if (scale && compute != DType::f32) exact = OwnedTensor(shape, DType::f32, ops.device(), dry_run);
  if (dry_run) return;
  const double factor = scale ? 1.0 / std::sqrt(static_cast<double>(model.hidden_size)) : 1.0;
  const std::vector<float> host(static_cast<std::size_t>(model.hidden_size),
                                static_cast<float>(factor));
  const OwnedTensor moved(shape, DType::f32, ops.device());
  copy(stream, host_view(host), moved);
  ops.cast(stream, moved, factors);
  if (exact.tensor) copy(stream, moved, exact);
  stream.synchronize();
}

Norm::Norm(ParameterStore& store, const std::string& name, const ModelConfig& model,
           const ModelPartition& partition)
    : Norm(store, name, model, model.norm, model.hidden_size, partition,
           partition.rows_sharded ? GradientSum::tensor : GradientSum::none) {}

Norm::Norm(ParameterStore& store, const std::string& name, const ModelConfig& model, NormKind kind,
           std::int64_t width, const ModelPartition& partition, GradientSum sum)
    : kind_(kind), width_(width), eps_(static_cast<float>(epsilon_of(kind, model, width))) {
  if (kind_ == NormKind::non_parametric_layernorm) return;
  weight_ = store.add(replicated_vector(name + ".weight", kind_ == NormKind::scalenorm ? 1 : width,
                                        InitRule::Kind::ones, partition, sum));
  if (kind_ == NormKind::layernorm && model.use_bias_in_norms) {
    bias_ =
        store.add(replicated_vector(name + ".bias", width, InitRule::Kind::zeros, partition, sum));
  }
}

Tensor Norm::spread_weight(const Context& ctx) const {
  const Tensor vector = ctx.scratch.take({width_, 1}, ctx.dtype());
  const ConstTensor factors = ctx.norms->factors;
  ctx.ops.linear(ctx.stream, factors.reshape({width_, 1}),
                 ctx.parameters.weight(weight_).reshape({1, 1}), {}, vector);
  return vector.reshape({width_});
}

void Norm::run(const Context& ctx, ConstTensor x, Tensor y, Tensor mean, Tensor rstd) const {
  const ArenaScope scope(ctx.scratch);
  const auto& store = ctx.parameters;
  switch (kind_) {
    case NormKind::layernorm: {
      const ConstTensor bias = bias_ < 0 ? ConstTensor{} : ConstTensor(store.weight(bias_));
      ctx.ops.layer_norm(ctx.stream, x, store.weight(weight_), bias, eps_, y, mean, rstd);
      break;
    }
    case NormKind::non_parametric_layernorm:
      ctx.ops.layer_norm(ctx.stream, x, ctx.norms->factors, {}, eps_, y, mean, rstd);
      break;
    case NormKind::rmsnorm:
      ctx.ops.rms_norm(ctx.stream, x, store.weight(weight_), eps_, y, rstd);
      break;
    case NormKind::scalenorm:
      ctx.ops.rms_norm(ctx.stream, x, spread_weight(ctx), eps_, y, rstd);
      break;
  }
}

void Norm::forward(const Context& ctx, ConstTensor x, Tensor y, Saved& saved) const {
  const Tensor rstd = ctx.keep.take({x.rows()}, DType::f32);
  const Tensor mean = has_mean() ? ctx.keep.take({x.rows()}, DType::f32) : Tensor{};
  run(ctx, x, y, mean, rstd);
  saved = {x, mean, rstd};
}

void Norm::repeat(const Context& ctx, const Saved& saved, Tensor y) const {
  const ArenaScope scope(ctx.scratch);
  const Tensor rstd = ctx.scratch.take(saved.rstd.shape, DType::f32);
  const Tensor mean = saved.mean ? ctx.scratch.take(saved.mean.shape, DType::f32) : Tensor{};
  run(ctx, saved.x, y, mean, rstd);
}

void Norm::scale_norm_backward(const Context& ctx, ConstTensor dy, const Saved& saved,
                               ConstTensor residual_grad, Tensor dx, bool weights) const {
  const ArenaScope scope(ctx.scratch);
  const Tensor weight = dx ? spread_weight(ctx) : Tensor{};
  const Tensor vector = weights ? ctx.scratch.take({width_}, DType::f32) : Tensor{};
  ctx.ops.rms_norm_backward(ctx.stream, dy, saved.x, weight, saved.rstd, residual_grad, dx, vector,
                            false);
  if (!weights) return;
  const auto& store = ctx.parameters;
  const ConstTensor factors = ctx.norms->exact.tensor ? ctx.norms->exact : ctx.norms->factors;
  ctx.ops.linear_backward_weight(ctx.stream, vector.reshape({width_, 1}),
                                 factors.reshape({width_, 1}), store.grad(weight_).reshape({1, 1}),
                                 {}, store.accumulates(weight_));
}

void Norm::run_backward(const Context& ctx, ConstTensor dy, const Saved& saved,
                        ConstTensor residual_grad, Tensor dx, bool weights) const {
  if (kind_ == NormKind::scalenorm) {
    return scale_norm_backward(ctx, dy, saved, residual_grad, dx, weights);
  }
  if (kind_ == NormKind::non_parametric_layernorm) {
    if (!dx) return;
    ctx.ops.layer_norm_backward(ctx.stream, dy, saved.x, ctx.norms->factors, saved.mean, saved.rstd,
                                residual_grad, dx, {}, {}, false);
    return;
  }
  const auto& store = ctx.parameters;
  const Tensor weight_grad = weights ? store.grad(weight_) : Tensor{};
  // The second half of a split backward needs no weights, and with ZeRO 3 they are not there.
  const ConstTensor weight = dx ? ConstTensor(store.weight(weight_)) : ConstTensor{};
  if (kind_ == NormKind::rmsnorm) {
    ctx.ops.rms_norm_backward(ctx.stream, dy, saved.x, weight, saved.rstd, residual_grad, dx,
                              weight_grad, store.accumulates(weight_));
    return;
  }
  const Tensor bias_grad = weights && bias_ >= 0 ? store.grad(bias_) : Tensor{};
  ctx.ops.layer_norm_backward(ctx.stream, dy, saved.x, weight, saved.mean, saved.rstd,
                              residual_grad, dx, weight_grad, bias_grad,
                              store.accumulates(weight_));
}

void Norm::backward(const Context& ctx, ConstTensor dy, const Saved& saved,
                    ConstTensor residual_grad, Tensor dx) const {
  run_backward(ctx, dy, saved, residual_grad, dx, !ctx.split_backward());
}

void Norm::backward_weight(const Context& ctx, ConstTensor dy, const Saved& saved) const {
  run_backward(ctx, dy, saved, {}, {}, true);
}

// ---- Linear -------------------------------------------------------------------------------------

Linear::Linear(ParameterStore& store, const std::vector<Part>& parts, std::int64_t in, bool bias,
               InitMethod init, const ModelPartition& partition)
    : parts_(static_cast<int>(parts.size())) {
  std::vector<ParameterSpec> weights, biases;
  for (const Part& part : parts) {
    ParameterSpec weight{part.name + ".weight",
                         {part.rows, in},
                         {{part.held.begin, 0}, {part.held.size, in}},
                         {InitRule::Kind::random, init},
                         true};
    weight.sum = part.holders > 1 ? GradientSum::key_value : GradientSum::none;
    weight.counted = partition.tensor_rank % part.holders == 0;
    ParameterSpec vector = weight;
    vector.name = part.name + ".bias";
    vector.global = {part.rows};
    vector.slice = {{part.held.begin}, {part.held.size}};
    vector.init = {InitRule::Kind::zeros, InitMethod::normal};
    vector.decay = false;
    weights.push_back(std::move(weight));
    biases.push_back(std::move(vector));
    out_ += part.held.size;
  }
  weight_ = store.add_fused(std::move(weights));
  if (bias) bias_ = store.add_fused(std::move(biases));
}

Linear::Linear(ParameterStore& store, const std::string& name, std::int64_t out, std::int64_t in,
               AxisRange held, bool bias, InitMethod init, const ModelPartition& partition)
    : out_(out), adds_bias_(partition.tensor_rank == 0) {
  weight_ = store.add({name + ".weight",
                       {out, in},
                       {{0, held.begin}, {out, held.size}},
                       {InitRule::Kind::random, init},
                       true});
  if (bias) {
    bias_ = store.add(replicated_vector(name + ".bias", out, InitRule::Kind::zeros, partition,
                                        GradientSum::none));
  }
}

void Linear::forward(const Context& ctx, ConstTensor x, Tensor y) const {
  const auto& store = ctx.parameters;
  const ConstTensor bias =
      bias_ < 0 || !adds_bias_ ? ConstTensor{} : ConstTensor(store.fused_weight(bias_, parts_));
  ctx.ops.linear(ctx.stream, x, store.fused_weight(weight_, parts_), bias, y);
}

void Linear::backward_input(const Context& ctx, ConstTensor dy, Tensor dx, bool accumulate) const {
  ctx.ops.linear_backward_input(ctx.stream, dy, ctx.parameters.fused_weight(weight_, parts_), dx,
                                accumulate);
}

void Linear::backward_weight(const Context& ctx, ConstTensor dy, ConstTensor x) const {
  const auto& store = ctx.parameters;
  const Tensor bias_grad = bias_ < 0 ? Tensor{} : store.fused_grad(bias_, parts_);
  ctx.ops.linear_backward_weight(ctx.stream, dy, x, store.fused_grad(weight_, parts_), bias_grad,
                                 store.accumulates(weight_));
}

// ---- Mlp ----------------------------------------------------------------------------------------

namespace {

std::vector<Linear::Part> mlp_input_parts(const std::string& name, const ModelConfig& model,
                                          const ModelPartition& partition) {
  const std::int64_t width = model.intermediate_size;
  const AxisRange held = partition.tensor_part(width);
  if (!model.gated) return {{name + ".dense_h_to_4h", width, held}};
  return {{name + ".gate_proj", width, held}, {name + ".up_proj", width, held}};
}

}  // namespace

Mlp::Mlp(ParameterStore& store, const std::string& name, const ModelConfig& model,
         const ModelPartition& partition)
    : activation_(model.activation),
      gated_(model.gated),
      width_(partition.tensor_part(model.intermediate_size).size),
      in_(store, mlp_input_parts(name, model, partition), model.hidden_size, model.use_bias_in_mlp,
          model.init_method, partition),
      out_(store, name + (model.gated ? ".down_proj" : ".dense_4h_to_h"), model.hidden_size,
           model.intermediate_size, partition.tensor_part(model.intermediate_size),
           model.use_bias_in_mlp, model.output_layer_init_method, partition) {}

void Mlp::activate(const Context& ctx, ConstTensor hidden, Tensor activated) const {
  if (gated_) {
    ctx.ops.gated_activation(ctx.stream, activation_, hidden, activated);
  } else {
    ctx.ops.activation(ctx.stream, activation_, hidden, activated);
  }
}

void Mlp::forward(const Context& ctx, ConstTensor u, Tensor y, Saved& saved) const {
  const ArenaScope scope(ctx.scratch);
  const Tensor hidden = ctx.keep.take({u.rows(), in_.out()}, ctx.dtype());
  Arena& place = ctx.selective ? ctx.scratch : ctx.keep;
  const Tensor activated = place.take({u.rows(), width_}, ctx.dtype());
  in_.forward(ctx, u, hidden);
  activate(ctx, hidden, activated);
  out_.forward(ctx, activated, y);
  saved = {hidden, ctx.selective ? ConstTensor{} : ConstTensor(activated)};
}

void Mlp::backward_input(const Context& ctx, ConstTensor dy, const Saved& saved, Tensor du,
                         bool accumulate_du, Gradients& gradients) const {
  const Tensor dhidden = ctx.gradients.take(saved.hidden.shape, ctx.dtype());
  gradients = {dy, dhidden};
  {
    const ArenaScope scope(ctx.scratch);
    const Tensor dactivated = gated_ ? ctx.scratch.take({dy.rows(), width_}, ctx.dtype()) : dhidden;
    out_.backward_input(ctx, dy, dactivated, false);
    if (gated_) {
      ctx.ops.gated_activation_backward(ctx.stream, activation_, saved.hidden, dactivated, dhidden);
    } else {
      ctx.ops.activation_backward(ctx.stream, activation_, saved.hidden, dactivated, dhidden);
    }
  }
  in_.backward_input(ctx, dhidden, du, accumulate_du);
}

void Mlp::backward_weight(const Context& ctx, ConstTensor u, const Saved& saved,
                          const Gradients& gradients) const {
  {
    const ArenaScope scope(ctx.scratch);
    ConstTensor activated = saved.activated;
    if (!activated) {
      const Tensor again = ctx.scratch.take({u.rows(), width_}, ctx.dtype());
      activate(ctx, saved.hidden, again);
      activated = again;
    }
    out_.backward_weight(ctx, gradients.y, activated);
  }
  in_.backward_weight(ctx, gradients.hidden, u);
}

}  // namespace neox
