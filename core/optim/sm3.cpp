#include "core/optim/sm3.h"

namespace neox {
namespace {

bool is_matrix(const Shape& shape) {
  return shape.rank() > 1;
}

Sm3 rule_of(const OptimizerConfig& config, double lr, bool decay) {
  const double beta = config.sm3_beta;
  return {.keep = beta > 0 ? static_cast<float>(beta) : 1.0f,
          .rest = static_cast<float>(1.0 - beta),
          .eps = static_cast<float>(config.eps),
          .momentum = static_cast<float>(config.momentum),
          .lr = static_cast<float>(lr),
          .decay = decay ? static_cast<float>(lr * config.weight_decay) : 0.0f};
}

MatrixPart part_of(const ParameterSpec& spec, const ParameterPiece& piece) {
  const bool matrix = is_matrix(spec.global);
  return {.begin = piece.begin,
          .width = matrix ? spec.slice.extent[1] : 1,
          .row = spec.slice.offset[0],
          .column = matrix ? spec.slice.offset[1] : 0};
}

}  // namespace

Sm3Accumulators::Sm3Accumulators(ParameterStore& store, const OptimizerConfig& config,
                                 const Backend& ops, Stream& stream, Communicator* world,
                                 const std::vector<ModelParameter>& parameters)
    : store_(store),
      config_(config),
      ops_(ops),
      stream_(stream),
      world_(world),
      parameters_(parameters),
      places_(places_among(parameters, store)) {
  std::int64_t end = 0;
  for (const ModelParameter& parameter : parameters) {
    const Shape& shape = parameter.shape;
    require(shape.rank() == 1 || shape.rank() == 2,
            "internal error: SM3 has no accumulators for {} of shape {}", parameter.name,
            shape.str());
    offsets_.push_back(end);
    end += is_matrix(shape) ? shape[0] + shape[1] : shape[0];
  }
  offsets_.push_back(end);
  kept_ = OwnedTensor({end}, DType::f32, store.device(), store.dry_run());
  next_ = OwnedTensor({end}, DType::f32, store.device(), store.dry_run());
  clear();
}

void Sm3Accumulators::clear() {
  fill_zero(stream_, kept_);
}

Sm3Accumulators::Factors Sm3Accumulators::factors(const OwnedTensor& all, std::size_t place) const {
  const Shape& shape = parameters_[place].shape;
  const std::int64_t begin = offsets_[place], rows = begin + shape[0];
  return {all.tensor.slice(begin, rows),
          is_matrix(shape) ? all.tensor.slice(rows, offsets_[place + 1]) : Tensor{}};
}

void Sm3Accumulators::step(double lr, ConstTensor scale) {
  // A sum only grows; an average must not fall.
  if (config_.sm3_beta > 0) {
    copy(stream_, kept_, next_);
  } else {
    fill_zero(stream_, next_);
  }
  const auto place = [&](ParameterId id) {
    return static_cast<std::size_t>(places_[static_cast<std::size_t>(id)]);
  };
  for (ParameterId id = 0; id < store_.size(); ++id) {
    const ParameterSpec& spec = store_.spec(id);
    const Factors kept = factors(kept_, place(id)), next = factors(next_, place(id));
    for (const ParameterPiece& part : store_.owned_pieces(id)) {
      ops_.sm3_maxima(stream_, rule_of(config_, lr, false), part_of(spec, part),
                      store_.piece(State::gradients, part.piece), scale, kept.rows, kept.columns,
                      next.rows, next.columns);
    }
  }
  if (world_ != nullptr) {
    const TrafficScope scope(*world_, Purpose::norm);
    world_->all_reduce(next_, ReduceOp::max, stream_).wait(stream_);
  }
  const bool momentum = !store_.optimizer_states().empty();
  for (ParameterId id = 0; id < store_.size(); ++id) {
    const ParameterSpec& spec = store_.spec(id);
    const Factors kept = factors(kept_, place(id));
    for (const ParameterPiece& part : store_.update_pieces(id)) {
      const auto of = [&](State state) { return store_.piece(state, part.piece); };
      ops_.sm3_step(stream_, rule_of(config_, lr, spec.decay), part_of(spec, part),
                    of(State::gradients), scale, kept.rows, kept.columns, of(State::main),
                    momentum ? of(State::optimizer0) : Tensor{},
                    store_.has_separate_main() ? of(State::weights) : Tensor{});
    }
  }
  copy(stream_, next_, kept_);
}

std::vector<SharedState> Sm3Accumulators::states() const {
  std::vector<SharedState> all;
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    const Factors kept = factors(kept_, i);
    all.push_back({"accumulator_0", parameters_[i].name, kept.rows});
    if (kept.columns) all.push_back({"accumulator_1", parameters_[i].name, kept.columns});
  }
  return all;
}

std::size_t Sm3Accumulators::bytes() const {
  return kept_.tensor.bytes() + next_.tensor.bytes();
}

}  // namespace neox
