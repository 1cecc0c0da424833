#include "core/optim/optimizer.h"

#include <cmath>

#include <fmt/ranges.h>

#include "core/optim/update_rule.h"

namespace neox {

Optimizer::Optimizer(ParameterStore& store, const OptimizerConfig& config, const Backend& ops,
                     Stream& stream, Communicator* world,
                     const std::vector<ModelParameter>& parameters)
    : store_(store),
      config_(config),
      ops_(ops),
      stream_(stream),
      world_(world),
      sums_({2}, DType::f64, store.device(), store.dry_run()),
      scale_({1}, DType::f32, store.device(), store.dry_run()),
      host_sums_({2}, DType::f64, {}, store.dry_run()) {
  require(store.mode() == StoreMode::training,
          "internal error: an optimizer needs a store in training mode");
  require(config.betas.size() == 2, "optimizer.betas needs two values, found {}",
          config.betas.size());
  require(store.optimizer_states() == optimizer_states(config),
          "internal error: the store keeps [{}] for optimizer.type = {}, which needs [{}]",
          fmt::join(store.optimizer_states(), ", "), config.type,
          fmt::join(optimizer_states(config), ", "));
  const auto all = parameters.empty() ? model_parameters(store) : parameters;
  if (config.type == "lamb") trust_ratios_.emplace(store, config, ops, stream, world, all);
  if (config.type == "sm3") sm3_.emplace(store, config, ops, stream, world, all);
}

std::vector<SharedState> Optimizer::shared_states() const {
  return sm3_ ? sm3_->states() : std::vector<SharedState>{};
}

void Optimizer::clear_shared_states() {
  if (sm3_) sm3_->clear();
}

UpdateResult Optimizer::step(double lr, const UpdateGuard& guard) {
  const Tensor square_sum = sums_.tensor.slice(0, 1);
  if (!store_.dry_run()) host_sums_.tensor.ptr<double>()[1] = guard.loss;
  copy(stream_, host_sums_.tensor.slice(1, 2), sums_.tensor.slice(1, 2));
  fill_zero(stream_, square_sum);
  for (const StatePiece& piece : store_.owned_pieces()) {
    if (!piece.counted) continue;
    ops_.square_sum(stream_, store_.piece(State::gradients, piece), square_sum, true);
  }
  if (world_ != nullptr) {
    const TrafficScope scope(*world_, Purpose::norm);
    world_->all_reduce(sums_, ReduceOp::sum, stream_).wait(stream_);
  }
  // One factor clips and takes the loss scale away; the gradients themselves are left as they are.
  ops_.clip_scale(stream_, square_sum, static_cast<float>(config_.gradient_clipping),
                  static_cast<float>(guard.loss_scale), scale_);
  copy(stream_, sums_, host_sums_);
  stream_.synchronize();
  UpdateResult result;
  if (!store_.dry_run()) {
    result.grad_norm = std::sqrt(host_sums_.tensor.ptr<double>()[0]) / guard.loss_scale;
    result.loss = host_sums_.tensor.ptr<double>()[1];
  }
  result.applied = std::isfinite(result.grad_norm) && std::isfinite(result.loss) &&
                   result.grad_norm <= guard.max_grad_norm && result.loss <= guard.max_loss;
  if (result.applied) update(lr);
  return result;
}

void Optimizer::update(double lr) {
  ++steps_;
  if (sm3_) {
    sm3_->step(lr, scale_);
  } else {
    update_elements(lr);
  }
  store_.weights_changed(ops_);
}

void Optimizer::update_elements(double lr) {
  const auto states = static_cast<int>(store_.optimizer_states().size());
  for (const StatePiece& piece : store_.update_pieces()) {
    const auto part = [&](State state) { return store_.piece(state, piece); };
    const UpdateRule rule = update_rule(config_, lr, steps_, piece.decay);
    UpdateStates kept;
    for (int i = 0; i < states; ++i) {
      kept[static_cast<std::size_t>(i)] = part(optimizer_state(i));
    }
    const Tensor gradients = part(State::gradients);
    if (trust_ratios_) {
      kept[2] = part(State::main);
      ops_.optimizer_step(stream_, rule, gradients, scale_, gradients, kept, {});
    } else {
      ops_.optimizer_step(stream_, rule, gradients, scale_, part(State::main), kept,
                          store_.has_separate_main() ? part(State::weights) : Tensor{});
    }
  }
  if (trust_ratios_) trust_ratios_->apply(lr);
}

std::size_t Optimizer::bytes() const {
  std::size_t bytes = trust_ratios_ ? trust_ratios_->bytes() : 0;
  for (const OwnedTensor* t : {&sums_, &scale_, &host_sums_}) {
    bytes += t->tensor.bytes();
  }
  return bytes;
}

}  // namespace neox
