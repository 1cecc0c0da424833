#include "comm/nccl_lane.h"

#include <algorithm>

namespace neox {

NcclLane::NcclLane(NcclDomain& domain)
    : domain_(domain), stream_(make_stream(domain.device, StreamPriority::high)) {
  for (Entry& entry : ring_) {
    entry.begun = make_event(domain.device);
    entry.done = make_event(domain.device);
  }
}

NcclLane::~NcclLane() {
  close(true);
}

void NcclLane::join(std::uint64_t number, Stream& stream) {
  Event& done = *entry_of(number).done;
  if (stream.device().is_cpu()) {
    done.synchronize();
  } else {
    done.make_wait(stream);
  }
}

std::optional<NcclLane::Stuck> NcclLane::running() {
  // Entries older than the ring are those of newer operations.
  if (issued_ > ring_.size()) ended_ = std::max(ended_, issued_ - ring_.size());
  while (ended_ < issued_ && entry_of(ended_ + 1).done->done()) ++ended_;
  if (ended_ == issued_) return {};
  const Entry& entry = entry_of(ended_ + 1);
  if (!entry.begun->done()) return {};
  return Stuck{entry.kind, entry.peer, ended_ + 1};
}

void NcclLane::close(bool abort) noexcept {
  if (handle == nullptr) return;
  if (!abort) {
    try {
      stream_->synchronize();
    } catch (const std::exception&) {  // reported where somebody waited, or not wanted any more
      abort = true;
    }
  }
  close_nccl(domain_, std::exchange(handle, nullptr), abort);
}

}  // namespace neox
