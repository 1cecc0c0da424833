#include "core/parallel/gradient_reducer.h"

#include <algorithm>

namespace neox {

GradientReducer::GradientReducer(const ParameterStore& store, Communicator& group, Stream& stream,
                                 std::int64_t bucket_bytes)
    : store_(store),
      group_(group),
      stream_(stream),
      bucket_elements_(std::max<std::int64_t>(1, bucket_bytes / 4)) {
  pending_.reserve(static_cast<std::size_t>(store.numel() / bucket_elements_ + 1));
}

void GradientReducer::begin() {
  sent_ = 0;
  pending_.clear();
}

void GradientReducer::gradients_done(int block) {
  if (group_.size() == 1) return;
  const std::int64_t ready = store_.block_range(block).end;
  require(ready >= sent_, "internal error: block {} became ready out of order",
          store_.block_name(block));
  const bool last = ready == store_.numel();
  while (sent_ + bucket_elements_ <= ready || (last && sent_ < ready)) {
    const std::int64_t end = std::min(sent_ + bucket_elements_, ready);
    pending_.push_back(group_.all_reduce(store_.grads().slice(sent_, end), ReduceOp::sum, stream_));
    sent_ = end;
  }
}

void GradientReducer::finish() {
  if (group_.size() == 1) return;
  require(sent_ == store_.numel(), "internal error: {} of {} gradient elements were reduced", sent_,
          store_.numel());
  for (const Work& work : pending_) work.wait(stream_);
}

}  // namespace neox
