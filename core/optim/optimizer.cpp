#include "core/optim/optimizer.h"

#include <cmath>
#include <limits>

namespace neox {

Optimizer::Optimizer(ParameterStore& store, const OptimizerConfig& config, const Backend& ops,
                     Stream& stream, Communicator* world)
    : store_(store),
      config_(config),
      ops_(ops),
      stream_(stream),
      world_(world),
      square_sum_({1}, DType::f64, store.device(), store.dry_run()),
      scale_({1}, DType::f32, store.device(), store.dry_run()),
      host_square_sum_({1}, DType::f64, {}, store.dry_run()) {
  require(store.mode() == StoreMode::training,
          "internal error: an optimizer needs a store in training mode");
  require(config.betas.size() == 2, "optimizer.betas needs two values, found {}",
          config.betas.size());
}

double Optimizer::step(double lr, bool skip) {
  fill_zero(stream_, square_sum_);
  for (const StatePiece& piece : store_.owned_pieces()) {
    if (!piece.counted) continue;
    ops_.square_sum(stream_, store_.piece(State::gradients, piece), square_sum_, true);
  }
  if (skip) {  // travels with the norm, so that it costs no message of its own
    host_square_sum_.tensor.ptr<double>()[0] = std::numeric_limits<double>::quiet_NaN();
    copy(stream_, host_square_sum_, square_sum_);
  }
  if (world_ != nullptr) {
    const TrafficScope scope(*world_, Purpose::norm);
    world_->all_reduce(square_sum_, ReduceOp::sum, stream_).wait(stream_);
  }
  ops_.clip_scale(stream_, square_sum_, static_cast<float>(config_.gradient_clipping), scale_);
  copy(stream_, square_sum_, host_square_sum_);
  stream_.synchronize();
  const double norm = store_.dry_run() ? 0.0 : std::sqrt(host_square_sum_.tensor.ptr<double>()[0]);
  if (!std::isfinite(norm)) return norm;

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
  return norm;
}

std::size_t Optimizer::bytes() const {
  std::size_t bytes = 0;
  for (const OwnedTensor* t : {&square_sum_, &scale_, &host_square_sum_}) {
    bytes += t->tensor.bytes();
  }
  return bytes;
}

}  // namespace neox
