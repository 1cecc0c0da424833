#include "core/parallel/bucket_reducer.h"

#include <algorithm>

namespace neox {

BucketReducer::BucketReducer(ParameterStore& store, Communicator* group, const Backend& ops,
                             Stream& stream, DType exchange)
    : store_(store),
      group_(store.plan().size > 1 ? group : nullptr),
      ops_(ops),
      stream_(stream),
      exchange_(exchange),
      accumulating_(static_cast<std::size_t>(store.block_count()), 0) {
  const ShardPlan& plan = store.plan();
  require(plan.size == 1 ||
              (group != nullptr && group->size() == plan.size && group->rank() == plan.rank),
          "internal error: the store is sharded for rank {} of {}, the group is another", plan.rank,
          plan.size);
  require(exchange == DType::f32 || exchange == DType::bf16 || exchange == DType::f16,
          "gradients can be exchanged in fp32, bf16 or fp16, not in {}", name_of(exchange));
  if (group_ == nullptr) return;
  std::size_t buckets = 0;
  for (int b = 0; b < store.block_count(); ++b) buckets += store.block_buckets(b).size();
  // In ZeRO 2 and 3 two micro-batches of a block may be on their way.
  pending_.resize(2 * buckets + 1);
  gathers_.reserve(buckets);
  allocate_slots();
  if (exchange_ != DType::f32) allocate_messages();
}

Tensor BucketReducer::allocate(std::int64_t elements, DType dtype, std::size_t& bytes) {
  const Shape shape{elements};
  const std::size_t size = static_cast<std::size_t>(elements) * size_of(dtype);
  bytes += size;
  if (store_.dry_run()) return {nullptr, shape, dtype, store_.device()};
  const Tensor tensor = buffers_.emplace_back(size, store_.device()).view(shape, dtype);
  fill_zero(stream_, tensor);
  return tensor;
}

void BucketReducer::allocate_slots() {
  std::int64_t largest = 0;
  for (int b = 0; b < store_.block_count(); ++b) {
    if (temporary(b)) largest = std::max(largest, store_.block_range(b).size());
  }
  if (largest == 0) return;
  for (Slot& slot : slots_) slot.memory = allocate(largest, DType::f32, slot_bytes_);
}

void BucketReducer::allocate_messages() {
  std::int64_t largest = 0;
  for (int b = 0; b < store_.block_count(); ++b) {
    for (const Bucket& bucket : store_.block_buckets(b)) largest = std::max(largest, bucket.size());
  }
  for (Message& message : messages_) {
    message.send = allocate(largest, exchange_, message_bytes_);
    message.receive = allocate(largest, exchange_, message_bytes_);
  }
  message_sum_ = allocate(largest / group_->size(), DType::f32, message_bytes_);
  message_term_ = allocate(largest / group_->size(), DType::f32, message_bytes_);
}

void BucketReducer::begin_step() {
  require(count_ == 0, "internal error: a step began while {} sums of the last one were pending",
          count_);
  std::fill(accumulating_.begin(), accumulating_.end(), char{0});
}

// ---- places ------------------------------------------------------------------------------------

BucketReducer::Slot* BucketReducer::slot_of(int block) {
  for (Slot& slot : slots_) {
    if (slot.block == block) return &slot;
  }
  return nullptr;
}

BucketReducer::Slot& BucketReducer::free_slot(int block) {
  Slot* best = nullptr;
  for (Slot& slot : slots_) {
    if (slot.block >= 0) continue;
    if (best == nullptr || slot.pending < best->pending) best = &slot;
  }
  if (best == nullptr) {
    fail(
        "internal error: the gradients of block {} are needed while those of {} and {} are not "
        "done",
        store_.block_name(block), store_.block_name(slots_[0].block),
        store_.block_name(slots_[1].block));
  }
  // Which slot is chosen may differ between ranks without harm: only the order of messages counts.
  while (best->pending > 0) complete_oldest();
  return *best;
}

void BucketReducer::bind(int block) {
  if (!temporary(block) || slot_of(block) != nullptr) return;
  Slot& slot = free_slot(block);
  slot.block = block;
  store_.bind_gradients(block, slot.memory.slice(0, store_.block_range(block).size()));
}

// ---- sums --------------------------------------------------------------------------------------

void BucketReducer::push(const Pending& pending) {
  require(count_ < pending_.size(), "internal error: too many sums of gradients are pending");
  pending_[(head_ + count_++) % pending_.size()] = pending;
  if (pending.slot != nullptr) ++pending.slot->pending;
}

void BucketReducer::reduce(int block) {
  if (group_ == nullptr) return;
  Slot* slot = temporary(block) ? slot_of(block) : nullptr;
  require(slot != nullptr || !temporary(block),
          "internal error: the gradients of block {} are done, but were not needed before",
          store_.block_name(block));
  const Tensor gradients = store_.bound_gradients(block);
  const std::int64_t begin = store_.block_range(block).begin;
  char& accumulating = accumulating_[static_cast<std::size_t>(block)];
  for (const Bucket& bucket : store_.block_buckets(block)) {
    start(gradients.slice(bucket.begin - begin, bucket.end - begin), bucket, accumulating != 0,
          slot);
  }
  accumulating = 1;
  if (slot == nullptr) return;
  store_.bind_gradients(block, {});
  slot->block = -1;
}

// `source`: the bucket's gradients. `add`: to what the owned part holds already.
void BucketReducer::start(const Tensor& source, const Bucket& bucket, bool add, Slot* slot) {
  const std::int64_t part = bucket.size() / group_->size();
  const Tensor own = source.slice(group_->rank() * part, (group_->rank() + 1) * part);
  const bool whole = store_.plan().zero_stage == 0;
  Pending pending;
  pending.elements = bucket.size();
  pending.slot = slot;
  pending.sum = whole ? own : store_.owned(State::gradients, bucket);
  if (exchange_ != DType::f32) {
    if (add) pending.add_to = pending.sum;
    if (whole) pending.whole = source;
    return start_exchange(source, pending);
  }
  if (whole) {
    pending.work = group_->all_reduce(source, ReduceOp::sum, stream_);
  } else {
    if (add) pending.add_to = std::exchange(pending.sum, own);
    pending.work = group_->reduce_scatter(source, pending.sum, ReduceOp::sum, stream_);
  }
  push(pending);
}

void BucketReducer::start_exchange(const Tensor& source, const Pending& pending) {
  const auto idle = [&] {
    return std::find_if(messages_.begin(), messages_.end(),
                        [](const Message& message) { return !message.busy; });
  };
  while (idle() == messages_.end()) complete_oldest();
  Message& message = *idle();
  message.busy = true;
  const Tensor send = message.send.slice(0, source.numel());
  ops_.cast(stream_, source, send);
  Pending sent = pending;
  sent.slot = nullptr;  // the gradients were copied
  sent.message = &message;
  sent.work = group_->all_to_all(send, message.receive.slice(0, source.numel()), stream_);
  push(sent);
}

void BucketReducer::sum_message(const Pending& pending) {
  const std::int64_t part = pending.elements / group_->size();
  const Tensor sum = pending.add_to ? message_sum_.slice(0, part) : pending.sum;
  const Tensor term = message_term_.slice(0, part);
  for (int rank = 0; rank < group_->size(); ++rank) {
    const Tensor received = pending.message->receive.slice(rank * part, (rank + 1) * part);
    ops_.cast(stream_, received, rank == 0 ? sum : term);
    if (rank > 0) ops_.add_into(stream_, term, sum);
  }
  if (pending.add_to) ops_.add_into(stream_, sum, pending.add_to);
  pending.message->busy = false;
  if (pending.whole) gathers_.push_back(group_->all_gather(sum, pending.whole, stream_));
}

void BucketReducer::complete_oldest() {
  const Pending pending = pending_[head_];
  head_ = (head_ + 1) % pending_.size();
  --count_;
  pending.work.wait(stream_);
  if (pending.message != nullptr) {
    sum_message(pending);
  } else if (pending.add_to) {
    ops_.add_into(stream_, pending.sum, pending.add_to);
  }
  if (pending.slot != nullptr) --pending.slot->pending;
}

void BucketReducer::wait_all() {
  for (; count_ > 0; --count_) {
    pending_[head_].work.wait(stream_);
    head_ = (head_ + 1) % pending_.size();
  }
  for (const Work& gather : gathers_) gather.wait(stream_);
}

void BucketReducer::finish() {
  while (count_ > 0) complete_oldest();
  for (const Work& gather : gathers_) gather.wait(stream_);
  gathers_.clear();
}

}  // namespace neox
