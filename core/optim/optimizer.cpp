#include "core/optim/optimizer.h"

#include <cmath>

namespace neox {

Optimizer::Optimizer(ParameterStore& store, const OptimizerConfig& config, const Backend& ops,
                     Stream& stream, Communicator* world)
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
  AdamW hyper;
  hyper.lr = static_cast<float>(lr);
  hyper.beta1 = static_cast<float>(config_.betas[0]);
  hyper.beta2 = static_cast<float>(config_.betas[1]);
  hyper.eps = static_cast<float>(config_.eps);
  hyper.step = ++steps_;
  for (const StatePiece& piece : store_.update_pieces()) {
    const auto part = [&](State state) { return store_.piece(state, piece); };
    hyper.weight_decay = piece.decay ? static_cast<float>(config_.weight_decay) : 0.0f;
    ops_.adamw(stream_, hyper, part(State::gradients), scale_, part(State::main),
               part(State::exp_avg), part(State::exp_avg_sq),
               store_.has_separate_main() ? part(State::weights) : Tensor{});
  }
  store_.weights_changed(ops_);
}

std::size_t Optimizer::bytes() const {
  std::size_t bytes = 0;
  for (const OwnedTensor* t : {&sums_, &scale_, &host_sums_}) {
    bytes += t->tensor.bytes();
  }
  return bytes;
}

}  // namespace neox
