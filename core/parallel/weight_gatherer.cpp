#include "core/parallel/weight_gatherer.h"

#include <algorithm>

namespace neox {

WeightGatherer::WeightGatherer(ParameterStore& store, Communicator* group, const Backend& ops,
                               Stream& stream)
    : store_(store),
      group_(store.plan().zero_stage > 0 ? group : nullptr),
      ops_(ops),
      stream_(stream),
      whole_(static_cast<std::size_t>(store.block_count())),
      works_(static_cast<std::size_t>(store.block_count())) {
  if (group_ == nullptr) return;
  for (int b = 0; b < store.block_count(); ++b) {
    whole_[static_cast<std::size_t>(b)] = store.bound_weights(b);
    works_[static_cast<std::size_t>(b)].reserve(store.block_buckets(b).size());
  }
  allocate_slots();
}

void WeightGatherer::allocate_slots() {
  std::int64_t largest = 0;
  for (int b = 0; b < store_.block_count(); ++b) {
    if (temporary(b)) largest = std::max(largest, store_.block_range(b).size());
  }
  if (largest == 0) return;
  buffers_.reserve(kSlots);
  for (Slot& slot : slots_) {
    const Shape shape{largest};
    const std::size_t bytes = static_cast<std::size_t>(largest) * size_of(store_.compute_dtype());
    slot_bytes_ += bytes;
    slot.memory = Tensor(nullptr, shape, store_.compute_dtype(), store_.device());
    if (store_.dry_run()) continue;
    slot.memory = buffers_.emplace_back(bytes, store_.device()).view(shape, store_.compute_dtype());
    fill_zero(stream_, slot.memory);
  }
}

// ---- order -------------------------------------------------------------------------------------

void WeightGatherer::begin_step() {
  recording_ = true;
  position_ = 0;
}

int WeightGatherer::next_block(int block, bool backward) {
  if (recording_) {
    if (position_ < order_.size() && order_[position_] != block) order_.resize(position_);
    const bool known = position_ < order_.size();
    if (!known) order_.push_back(block);
    if (++position_ < order_.size()) return order_[position_];
    if (known) return kNoBlock;  // a step ended here before: the next one has other weights
  }
  return block + (backward ? -1 : 1);
}

// ---- gathers -----------------------------------------------------------------------------------

void WeightGatherer::gather(int block, const Tensor& whole) {
  const TrafficScope scope(*group_, Purpose::parameters);
  const std::int64_t begin = store_.block_range(block).begin;
  for (const Bucket& bucket : store_.block_buckets(block)) {
    works_[static_cast<std::size_t>(block)].push_back(
        group_->all_gather(store_.owned(State::weights, bucket),
                           whole.slice(bucket.begin - begin, bucket.end - begin), stream_));
  }
}

bool WeightGatherer::wait(int block) {
  auto& works = works_[static_cast<std::size_t>(block)];
  if (works.empty()) return false;
  for (const Work& work : works) work.wait(stream_);
  works.clear();
  return true;
}

void WeightGatherer::wait_all() {
  for (int b = 0; b < store_.block_count(); ++b) wait(b);
}

void WeightGatherer::start() {
  if (group_ == nullptr || version_ == store_.version()) return;
  version_ = store_.version();
  for (Slot& slot : slots_) {
    if (slot.block < 0) continue;
    require(slot.users == 0, "internal error: weights changed while block {} was in use",
            store_.block_name(slot.block));
    wait(slot.block);
    slot.block = -1;
  }
  for (int b = 0; b < store_.block_count(); ++b) {
    const Tensor& whole = whole_[static_cast<std::size_t>(b)];
    if (!whole) continue;
    wait(b);
    store_.bind_weights(b, {});  // until need(): what is there now is of another version
    gather(b, whole);
  }
  if (!order_.empty()) prefetch(order_.front());
}

void WeightGatherer::need_whole(int block) {
  wait(block);
  store_.bind_weights(block, whole_[static_cast<std::size_t>(block)]);
}

WeightGatherer::Slot* WeightGatherer::slot_of(int block) {
  for (Slot& slot : slots_) {
    if (slot.block == block) return &slot;
  }
  return nullptr;
}

WeightGatherer::Slot* WeightGatherer::load(int block) {
  Slot* best = nullptr;
  for (Slot& slot : slots_) {
    if (slot.users > 0) continue;
    if (best == nullptr || slot.last_used < best->last_used) best = &slot;
  }
  if (best == nullptr) return nullptr;
  if (best->block >= 0) wait(best->block);
  best->block = block;
  gather(block, best->memory.slice(0, store_.block_range(block).size()));
  return best;
}

void WeightGatherer::prefetch(int block) {
  const bool here = 0 <= block && block < store_.block_count();
  if (!here || !temporary(block) || slot_of(block) != nullptr) return;
  load(block);
}

void WeightGatherer::need(int block, bool backward) {
  if (group_ == nullptr) return;
  start();
  for (const int used : store_.shared_blocks(block)) need_whole(used);
  if (!temporary(block)) {
    need_whole(block);
  } else {
    Slot* slot = slot_of(block);
    if (slot == nullptr) slot = load(block);
    if (slot == nullptr) {
      fail("internal error: the weights of block {} are needed while those of {} and {} are in use",
           store_.block_name(block), store_.block_name(slots_[0].block),
           store_.block_name(slots_[1].block));
    }
    // What the backend derived from the block that was there before is stale.
    if (wait(block)) ops_.weights_changed();
    ++slot->users;
    slot->last_used = ++calls_;
    store_.bind_weights(block, slot->memory.slice(0, store_.block_range(block).size()));
  }
  if (store_.sharded(State::weights)) prefetch(next_block(block, backward));
}

void WeightGatherer::release(int block) {
  if (group_ == nullptr || !temporary(block)) return;
  Slot* slot = slot_of(block);
  require(slot != nullptr && slot->users > 0,
          "internal error: the weights of block {} are done, but were not needed before",
          store_.block_name(block));
  if (--slot->users == 0) store_.bind_weights(block, {});
}

}  // namespace neox
