// Groups over NCCL: messages between two ranks, failures, and the polling thread's work.

#include <exception>

#include "comm/activity_slot.h"
#include "comm/nccl_group.h"

namespace neox {

// ---- failure
// --------------------------------------------------------------------------------------

std::vector<NcclLane*> NcclCommunicator::lanes() {
  std::vector<NcclLane*> all = {&lane_};
  const std::lock_guard lock(channels_mutex_);
  for (const auto& channel : channels_) {
    if (channel) all.push_back(&channel->lane);
  }
  return all;
}

void NcclCommunicator::throw_failure() const {
  const std::lock_guard lock(failure_mutex_);
  throw Error(failure_);
}

void NcclCommunicator::check_failed() const {
  if (failed_) [[unlikely]]
    throw_failure();
}

// Aborts what doesn't block this thread: a lane in whose lock another thread stands inside NCCL is
// left to the end of the job.
void NcclCommunicator::fail_with(const std::string& text) {
  {
    const std::lock_guard lock(failure_mutex_);
    if (failed_) return;
    failure_ = text;
    failed_ = true;
  }
  abort_now();
}

void NcclCommunicator::abort_now() {
  for (NcclLane* lane : lanes()) {
    const std::unique_lock lock(lane->mutex, std::try_to_lock);
    if (lock) lane->close(true);
  }
  const std::lock_guard lock(channels_mutex_);
  for (const auto& channel : channels_) {
    if (channel) channel->changed.notify_all();
  }
}

// ---- polling
// --------------------------------------------------------------------------------------

void NcclCommunicator::look_at(NcclLane& lane) {
  std::unique_lock lock(lane.mutex, std::try_to_lock);
  if (!lock || lane.handle == nullptr) return;
  const int state = domain_->state(lane.handle);
  if (state == kNcclSuccess || state == kNcclInProgress) return;
  const std::string text =
      domain_->error(state, "(found by ncclCommGetAsyncError)", name(), lane.handle);
  lock.unlock();
  fail_with(text);
}

void NcclCommunicator::inspect() {
  if (failed_) return;
  std::optional<NcclLane::Stuck> stuck;
  const NcclLane* where = nullptr;
  try {
    for (NcclLane* lane : lanes()) {
      look_at(*lane);
      if (failed_) return;
      const std::unique_lock lock(lane->mutex, std::try_to_lock);
      if (!lock || stuck) continue;
      stuck = lane->running();
      where = lane;
    }
  } catch (const Error& error) {  // of the device
    fail_with(error.what());
    return;
  }
  // Seen twice, it has run for a while. Said again each time: another group may have said something
  // in between.
  const std::pair seen(stuck ? where : nullptr, stuck ? stuck->number : 0);
  device_wait_.reset();
  if (stuck && seen == seen_running_) device_wait_.emplace(stuck->kind, name(), stuck->peer);
  seen_running_ = seen;
}

// ---- messages
// -------------------------------------------------------------------------------------

Work NcclCommunicator::send(ConstTensor tensor, int to, Stream& stream) {
  check_other("send", to);
  if (on_host(Collective::send, tensor, {}, stream)) {
    count(Collective::send, tensor.bytes());
    return control_.send(tensor, to, stream);
  }
  return message(true, const_cast<std::byte*>(tensor.data), tensor.bytes(), to, stream);
}

Work NcclCommunicator::recv(Tensor tensor, int from, Stream& stream) {
  check_other("recv", from);
  if (on_host(Collective::recv, {}, tensor, stream)) {
    count(Collective::recv, tensor.bytes());
    return control_.recv(tensor, from, stream);
  }
  return message(false, tensor.data, tensor.bytes(), from, stream);
}

int NcclCommunicator::launch_message(const NcclChannel& channel, std::byte* data, std::size_t bytes,
                                     NcclHandle comm, void* stream) const {
  if (bytes == 0) return kNcclSuccess;
  NcclLibrary& nccl = domain_->library;
  // In the pair the sender is rank 0.
  return channel.sends ? nccl.send(data, bytes, DType::u8, 1, comm, stream)
                       : nccl.recv(data, bytes, DType::u8, 0, comm, stream);
}

Work NcclCommunicator::message(bool sends, std::byte* data, std::size_t bytes, int peer,
                               Stream& stream) {
  check_failed();
  const Collective kind = sends ? Collective::send : Collective::recv;
  count(kind, bytes);
  const std::size_t index = 2 * static_cast<std::size_t>(peer) + (sends ? 1 : 0);
  if (!channels_[index]) {
    auto made = std::make_unique<NcclChannel>(*domain_, peer, sends);
    const std::lock_guard lock(channels_mutex_);
    channels_[index] = std::move(made);
  }
  NcclChannel& channel = *channels_[index];
  const std::lock_guard lock(channel.lane.mutex);
  std::uint64_t number = 0;
  if (channel.connected) {
    if (channel.lane.handle == nullptr) throw_failure();
    const Activity::Waiting waiting(kind, name(), peer);
    ready_->record(stream);
    number = channel.lane.run(kind, peer, name(), sends ? "ncclSend" : "ncclRecv", *ready_,
                              [&](NcclHandle comm, void* queue) {
                                return launch_message(channel, data, bytes, comm, queue);
                              });
  } else {
    auto ready = make_event(domain_->device);
    ready->record(stream);
    channel.early.push_back({std::move(ready), data, bytes});
    number = channel.lane.issued() + channel.early.size();
    if (!channel.connector.joinable()) {
      channel.connector = std::thread([this, &channel] { connect(channel); });
    }
  }
  return {this, (number << kLaneBits) | (index + 1)};
}

// On the channel's own thread: connecting needs the other rank, which may come much later. Not
// published as waiting: that is for what holds the program up.
void NcclCommunicator::connect(NcclChannel& channel) {
  try {
    const NcclHandle handle =
        connect_nccl_pair(*domain_, control_, channel.peer, channel.sends ? 0 : 1, closing_);
    const std::lock_guard lock(channel.lane.mutex);
    channel.lane.handle = handle;
    if (handle == nullptr) return;
    const Collective kind = channel.sends ? Collective::send : Collective::recv;
    for (const NcclChannel::Message& early : channel.early) {
      channel.lane.run(kind, channel.peer, name(), channel.sends ? "ncclSend" : "ncclRecv",
                       *early.ready, [&](NcclHandle comm, void* queue) {
                         return launch_message(channel, early.data, early.bytes, comm, queue);
                       });
    }
    channel.early.clear();
    channel.connected = true;
  } catch (const std::exception& error) {
    fail_with(error.what());
  }
  channel.changed.notify_all();
}

void NcclCommunicator::wait_for_channel(NcclChannel& channel, std::uint64_t number,
                                        std::unique_lock<std::mutex>& lock) {
  if (number <= channel.lane.issued()) return;
  const Activity::Waiting waiting(channel.sends ? Collective::send : Collective::recv, name(),
                                  channel.peer);
  const std::int64_t begin = monotonic_ns();
  channel.changed.wait(lock, [&] { return number <= channel.lane.issued() || failed_; });
  count_wait(monotonic_ns() - begin);
}

}  // namespace neox
