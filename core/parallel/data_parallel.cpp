#include "core/parallel/data_parallel.h"

#include <algorithm>
#include <exception>

namespace neox {

DataParallel::DataParallel(ParameterStore& store, const GradientGroups& groups, const Backend& ops,
                           Stream& stream, DType exchange)
    : store_(store),
      stream_(stream),
      reducer_(store, groups.data, ops, stream, exchange),
      gatherer_(store, groups.data, ops, stream),
      users_(static_cast<std::size_t>(store.block_count())),
      done_(users_.size(), 0),
      reduced_(users_.size(), 0),
      uncaught_(std::uncaught_exceptions()) {
  require(store.mode() == StoreMode::training,
          "internal error: data parallelism needs a store in training mode");
  for (int block = 0; block < store.block_count(); ++block) {
    for (const int used : store.shared_blocks(block)) {
      users_[static_cast<std::size_t>(used)].push_back(block);
    }
  }
  add_group_sum(groups.tensor, Purpose::gradients,
                [](const ParameterSpec& s) { return s.sum == GradientSum::tensor; });
  add_group_sum(groups.key_value, Purpose::gradients,
                [](const ParameterSpec& s) { return s.sum == GradientSum::key_value; });
  add_group_sum(groups.embedding, Purpose::embedding,
                [](const ParameterSpec& s) { return s.tied_across_stages; });
  stream.synchronize();
}

DataParallel::~DataParallel() {
  if (std::uncaught_exceptions() == uncaught_) {
    try {
      gatherer_.wait_all();
      reducer_.wait_all();
      return;
    } catch (const std::exception&) {  // the group failed: whoever used it last has said so
    }
  }
  gatherer_.abandon();
  reducer_.abandon();
  store_.abandon();
}

// ---- sums over model-parallel groups
// ------------------------------------------------------------- Sums commute, so these come last:
// over what this rank updates with, a data-parallel share of the bytes, in one message per step.

void DataParallel::add_group_sum(Communicator* group, Purpose purpose,
                                 const std::function<bool(const ParameterSpec&)>& chosen) {
  if (group == nullptr || group->size() == 1) return;
  GroupSum sum;
  sum.group = group;
  sum.purpose = purpose;
  sum.pieces = store_.update_pieces_of(chosen);
  std::string layout;
  std::int64_t elements = 0;
  for (const StatePiece& piece : sum.pieces) {
    layout += fmt::format("{} ", piece.size);
    elements += piece.size;
  }
  const std::vector<std::string> layouts = group->host_all_gather(layout);
  for (std::size_t rank = 0; rank < layouts.size(); ++rank) {
    require(layouts[rank] == layouts[0],
            "internal error: gradients that ranks 0 and {} of a group sum are laid out differently "
            "({} / {})",
            rank, layouts[0], layouts[rank]);
  }
  if (elements == 0) return;
  const Shape shape{elements};
  sum.packed = Tensor(nullptr, shape, DType::f32, store_.device());
  if (!store_.dry_run()) {
    sum.buffer = Buffer(sum.packed.bytes(), store_.device());
    sum.packed = sum.buffer.view(shape, DType::f32);
  }
  sums_.push_back(std::move(sum));
}

void DataParallel::sum_over_groups() {
  for (const GroupSum& sum : sums_) {
    std::int64_t at = 0;
    for (const StatePiece& piece : sum.pieces) {
      copy(stream_, store_.piece(State::gradients, piece), sum.packed.slice(at, at + piece.size));
      at += piece.size;
    }
    const TrafficScope scope(*sum.group, sum.purpose);
    sum.group->all_reduce(sum.packed, ReduceOp::sum, stream_).wait(stream_);
    at = 0;
    for (const StatePiece& piece : sum.pieces) {
      copy(stream_, sum.packed.slice(at, at + piece.size), store_.piece(State::gradients, piece));
      at += piece.size;
    }
  }
}

// ---- a step
// --------------------------------------------------------------------------------------

void DataParallel::begin_step(std::int64_t micro_batches) {
  require(micro_batches >= 1, "internal error: a step of {} micro-batches", micro_batches);
  micro_batches_ = micro_batches;
  std::fill(done_.begin(), done_.end(), 0);
  std::fill(reduced_.begin(), reduced_.end(), char{0});
  for (int block = 0; block < store_.block_count(); ++block) store_.set_accumulates(block, false);
  reducer_.begin_step();
  gatherer_.begin_step();
}

void DataParallel::finish_gradients() {
  for (int block = 0; block < store_.block_count(); ++block) {
    const auto i = static_cast<std::size_t>(block);
    require(reduced_[i] != 0,
            "internal error: the gradients of block {} were done in {} of {} micro-batches",
            store_.block_name(block), done_[i], micro_batches_);
  }
  reducer_.finish();
  gatherer_.end_step();
  sum_over_groups();
  micro_batches_ = 0;
}

void DataParallel::gather_weights() {
  gatherer_.start();
}

// ---- the model's progress
// ------------------------------------------------------------------------

void DataParallel::weights_needed(int block, bool backward) {
  gatherer_.need(block, backward);
}

void DataParallel::weights_done(int block) {
  gatherer_.release(block);
}

void DataParallel::gradients_needed(int block) {
  reducer_.bind(block);
  if (reducer_.temporary(block)) store_.set_accumulates(block, false);
}

bool DataParallel::is_final(int block) const {
  const auto all_done = [&](int b) { return done_[static_cast<std::size_t>(b)] == micro_batches_; };
  const auto& users = users_[static_cast<std::size_t>(block)];
  return all_done(block) && std::all_of(users.begin(), users.end(), all_done);
}

void DataParallel::reduce_if_final(int block) {
  if (!is_final(block)) return;
  if (!reducer_.temporary(block)) reducer_.reduce(block);
  reduced_[static_cast<std::size_t>(block)] = 1;
}

void DataParallel::gradients_done(int block) {
  std::int64_t& done = done_[static_cast<std::size_t>(block)];
  require(done < micro_batches_,
          "internal error: the gradients of block {} are done once more than the {} micro-batches "
          "of the step",
          store_.block_name(block), micro_batches_);
  ++done;
  store_.set_shared_accumulates(block, true);
  if (reducer_.temporary(block)) {
    reducer_.reduce(block);
  } else {
    store_.set_accumulates(block, true);
  }
  reduce_if_final(block);
  for (const int used : store_.shared_blocks(block)) reduce_if_final(used);
}

DataParallelMemory DataParallel::memory() const {
  DataParallelMemory memory{gatherer_.slot_bytes(), reducer_.slot_bytes(),
                            reducer_.message_bytes()};
  for (const GroupSum& sum : sums_) memory.communication += sum.packed.bytes();
  return memory;
}

}  // namespace neox
