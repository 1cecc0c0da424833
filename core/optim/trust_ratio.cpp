#include "core/optim/trust_ratio.h"

#include <algorithm>
#include <cmath>

namespace neox {

TrustRatios::TrustRatios(ParameterStore& store, const OptimizerConfig& config, const Backend& ops,
                         Stream& stream, Communicator* world,
                         const std::vector<ModelParameter>& parameters)
    : store_(store),
      least_(config.min_coeff),
      most_(config.max_coeff),
      ops_(ops),
      stream_(stream),
      world_(world),
      places_(places_among(parameters, store)),
      one_({1}, DType::f32, store.device(), store.dry_run()) {
  const Shape shape{2 * static_cast<std::int64_t>(parameters.size())};
  sums_ = OwnedTensor(shape, DType::f64, store.device(), store.dry_run());
  host_sums_ = OwnedTensor(shape, DType::f64, {}, store.dry_run());
  if (store.dry_run()) return;
  const OwnedTensor one({1}, DType::f32);
  *one.tensor.ptr<float>() = 1.0f;
  copy(stream_, one, one_);
  stream_.synchronize();
}

void TrustRatios::sum_squares() {
  fill_zero(stream_, sums_);
  for (ParameterId id = 0; id < store_.size(); ++id) {
    if (!store_.spec(id).counted) continue;
    const std::int64_t at = 2 * places_[static_cast<std::size_t>(id)];
    for (const ParameterPiece& part : store_.owned_pieces(id)) {
      ops_.square_sum(stream_, store_.piece(State::main, part.piece),
                      sums_.tensor.slice(at, at + 1), true);
      ops_.square_sum(stream_, store_.piece(State::gradients, part.piece),
                      sums_.tensor.slice(at + 1, at + 2), true);
    }
  }
  if (world_ != nullptr) {
    const TrafficScope scope(*world_, Purpose::norm);
    world_->all_reduce(sums_, ReduceOp::sum, stream_).wait(stream_);
  }
  copy(stream_, sums_, host_sums_);
  stream_.synchronize();
}

double TrustRatios::ratio(ParameterId id) const {
  if (store_.dry_run()) return 1.0;
  const auto* squares = host_sums_.tensor.ptr<double>() + 2 * places_[static_cast<std::size_t>(id)];
  if (squares[0] == 0.0 || squares[1] == 0.0) return 1.0;
  return std::clamp(std::sqrt(squares[0] / squares[1]), least_, most_);
}

void TrustRatios::apply(double lr) {
  sum_squares();
  for (ParameterId id = 0; id < store_.size(); ++id) {
    const SgdRule rule{static_cast<float>(lr * ratio(id)), 0.0f};
    for (const ParameterPiece& part : store_.update_pieces(id)) {
      const auto of = [&](State state) { return store_.piece(state, part.piece); };
      ops_.optimizer_step(stream_, rule, of(State::gradients), one_, of(State::main), {},
                          store_.has_separate_main() ? of(State::weights) : Tensor{});
    }
  }
}

std::size_t TrustRatios::bytes() const {
  return sums_.tensor.bytes() + host_sums_.tensor.bytes() + one_.tensor.bytes();
}

}  // namespace neox
