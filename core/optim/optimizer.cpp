#include "core/optim/optimizer.h"

#include <cmath>

namespace neox {

Optimizer::Optimizer(ParameterStore& store, const OptimizerConfig& config, const Backend& ops,
                     Stream& stream)
    : store_(store),
      config_(config),
      ops_(ops),
      stream_(stream),
      square_sum_({1}, DType::f64, store.device()),
      scale_({1}, DType::f32, store.device()),
      host_square_sum_({1}, DType::f64) {
  require(store.mode() == StoreMode::training,
          "internal error: an optimizer needs a store in training mode");
  require(config.betas.size() == 2, "optimizer.betas needs two values, found {}",
          config.betas.size());
}

double Optimizer::step(double lr) {
  ops_.square_sum(stream_, store_.grads(), square_sum_, false);
  ops_.clip_scale(stream_, square_sum_, static_cast<float>(config_.gradient_clipping), scale_);
  copy(stream_, square_sum_, host_square_sum_);
  stream_.synchronize();
  const double norm = std::sqrt(host_square_sum_.tensor.ptr<double>()[0]);
  if (!std::isfinite(norm)) return norm;

  AdamW hyper;
  hyper.lr = static_cast<float>(lr);
  hyper.beta1 = static_cast<float>(config_.betas[0]);
  hyper.beta2 = static_cast<float>(config_.betas[1]);
  hyper.eps = static_cast<float>(config_.eps);
  hyper.step = ++steps_;
  for (const FlatRange& range : store_.decay_ranges()) {
    const auto part = [&](const Tensor& flat) { return flat.slice(range.begin, range.end); };
    hyper.weight_decay = range.decay ? static_cast<float>(config_.weight_decay) : 0.0f;
    ops_.adamw(stream_, hyper, part(store_.grads()), scale_, part(store_.main()),
               part(store_.exp_avg()), part(store_.exp_avg_sq()),
               store_.has_separate_main() ? part(store_.weights()) : Tensor{});
  }
  ops_.weights_changed();
  return norm;
}

}  // namespace neox
