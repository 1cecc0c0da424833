#include "core/model/layers.h"

namespace neox {
namespace {

ParameterSpec vector_spec(const std::string& name, std::int64_t n, InitRule::Kind kind) {
  return {name, Shape{n}, Slice::whole(Shape{n}), {kind, InitMethod::normal}, false};
}

}  // namespace

// ---- Norm ---------------------------------------------------------------------------------------

Norm::Norm(ParameterStore& store, const std::string& name, const ModelConfig& model)
    : kind_(model.norm),
      eps_(static_cast<float>(kind_ == NormKind::layernorm ? model.layernorm_epsilon
                                                           : model.rms_norm_epsilon)) {
  weight_ = store.add(vector_spec(name + ".weight", model.hidden_size, InitRule::Kind::ones));
  if (kind_ == NormKind::layernorm && model.use_bias_in_norms) {
    bias_ = store.add(vector_spec(name + ".bias", model.hidden_size, InitRule::Kind::zeros));
  }
}

void Norm::forward(const Context& ctx, ConstTensor x, Tensor y, Saved& saved) const {
  const auto& store = ctx.parameters;
  const Tensor rstd = ctx.keep.take({x.rows()}, DType::f32);
  saved.x = x;
  saved.rstd = rstd;
  if (kind_ == NormKind::rmsnorm) {
    ctx.ops.rms_norm(ctx.stream, x, store.weight(weight_), eps_, y, rstd);
    return;
  }
  const Tensor mean = ctx.keep.take({x.rows()}, DType::f32);
  saved.mean = mean;
  const ConstTensor bias = bias_ < 0 ? ConstTensor{} : ConstTensor(store.weight(bias_));
  ctx.ops.layer_norm(ctx.stream, x, store.weight(weight_), bias, eps_, y, mean, rstd);
}

void Norm::backward(const Context& ctx, ConstTensor dy, const Saved& saved,
                    ConstTensor residual_grad, Tensor dx) const {
  const auto& store = ctx.parameters;
  if (kind_ == NormKind::rmsnorm) {
    ctx.ops.rms_norm_backward(ctx.stream, dy, saved.x, store.weight(weight_), saved.rstd,
                              residual_grad, dx, store.grad(weight_), ctx.accumulates(weight_));
    return;
  }
  const Tensor bias_grad = bias_ < 0 ? Tensor{} : store.grad(bias_);
  ctx.ops.layer_norm_backward(ctx.stream, dy, saved.x, store.weight(weight_), saved.mean,
                              saved.rstd, residual_grad, dx, store.grad(weight_), bias_grad,
                              ctx.accumulates(weight_));
}

// ---- Linear -------------------------------------------------------------------------------------

Linear::Linear(ParameterStore& store, const std::vector<Part>& parts, std::int64_t in, bool bias,
               InitMethod init)
    : parts_(static_cast<int>(parts.size())) {
  std::vector<ParameterSpec> weights, biases;
  for (const Part& part : parts) {
    const Shape shape{part.rows, in};
    weights.push_back(
        {part.name + ".weight", shape, Slice::whole(shape), {InitRule::Kind::random, init}, true});
    biases.push_back(vector_spec(part.name + ".bias", part.rows, InitRule::Kind::zeros));
    out_ += part.rows;
  }
  weight_ = store.add_fused(std::move(weights));
  if (bias) bias_ = store.add_fused(std::move(biases));
}

void Linear::forward(const Context& ctx, ConstTensor x, Tensor y) const {
  const auto& store = ctx.parameters;
  const ConstTensor bias =
      bias_ < 0 ? ConstTensor{} : ConstTensor(store.fused_weight(bias_, parts_));
  ctx.ops.linear(ctx.stream, x, store.fused_weight(weight_, parts_), bias, y);
}

void Linear::backward(const Context& ctx, ConstTensor dy, ConstTensor x, Tensor dx,
                      bool accumulate_dx) const {
  const auto& store = ctx.parameters;
  if (dx) {
    ctx.ops.linear_backward_input(ctx.stream, dy, store.fused_weight(weight_, parts_), dx,
                                  accumulate_dx);
  }
  const Tensor bias_grad = bias_ < 0 ? Tensor{} : store.fused_grad(bias_, parts_);
  ctx.ops.linear_backward_weight(ctx.stream, dy, x, store.fused_grad(weight_, parts_), bias_grad,
                                 ctx.accumulates(weight_));
}

// ---- Mlp ----------------------------------------------------------------------------------------

namespace {

std::vector<Linear::Part> mlp_input_parts(const std::string& name, const ModelConfig& model) {
  if (!model.gated) return {{name + ".dense_h_to_4h", model.intermediate_size}};
  return {{name + ".gate_proj", model.intermediate_size},
          {name + ".up_proj", model.intermediate_size}};
}

}  // namespace

Mlp::Mlp(ParameterStore& store, const std::string& name, const ModelConfig& model)
    : activation_(model.activation),
      gated_(model.gated),
      width_(model.intermediate_size),
      in_(store, mlp_input_parts(name, model), model.hidden_size, model.use_bias_in_mlp,
          model.init_method),
      out_(store, {{name + (model.gated ? ".down_proj" : ".dense_4h_to_h"), model.hidden_size}},
           model.intermediate_size, model.use_bias_in_mlp, model.output_layer_init_method) {}

void Mlp::forward(const Context& ctx, ConstTensor u, Tensor y, Saved& saved) const {
  const Tensor hidden = ctx.keep.take({u.rows(), in_.out()}, ctx.dtype());
  const Tensor activated = ctx.keep.take({u.rows(), width_}, ctx.dtype());
  in_.forward(ctx, u, hidden);
  if (gated_) {
    ctx.ops.gated_activation(ctx.stream, activation_, hidden, activated);
  } else {
    ctx.ops.activation(ctx.stream, activation_, hidden, activated);
  }
  out_.forward(ctx, activated, y);
  saved = {u, hidden, activated};
}

void Mlp::backward(const Context& ctx, ConstTensor dy, const Saved& saved, Tensor du,
                   bool accumulate_du) const {
  const ArenaScope scope(ctx.scratch);
  const Tensor dhidden = ctx.scratch.take(saved.hidden.shape, ctx.dtype());
  const Tensor dactivated = gated_ ? ctx.scratch.take(saved.activated.shape, ctx.dtype()) : dhidden;
  out_.backward(ctx, dy, saved.activated, dactivated, false);
  if (gated_) {
    ctx.ops.gated_activation_backward(ctx.stream, activation_, saved.hidden, dactivated, dhidden);
  } else {
    ctx.ops.activation_backward(ctx.stream, activation_, saved.hidden, dactivated, dhidden);
  }
  in_.backward(ctx, dhidden, saved.u, du, accumulate_du);
}

}  // namespace neox
