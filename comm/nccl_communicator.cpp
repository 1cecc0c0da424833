#include "comm/nccl_communicator.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>

#include "comm/activity.h"
#include "comm/activity_slot.h"
#include "comm/nccl_lane.h"

namespace neox {
namespace {

/// Messages between this rank and one other in one direction. Each has a handle and a stream of its
/// own: on one stream, a message would hold up all later operations until its peer comes.
struct Channel {
  Channel(NcclDomain& domain, int peer_rank, bool is_sender)
      : lane(domain), peer(peer_rank), sends(is_sender) {}

  NcclLane lane;
  const int peer;
  const bool sends;
  bool connected = false;
  struct Message {
    std::unique_ptr<Event> ready;
    std::byte* data;
    std::size_t bytes;
  };
  std::vector<Message> early;  // asked for before the channel was connected
  std::condition_variable changed;
  std::thread connector;
};

// A Work's id: the operation's number on its lane, and the lane: 0, or 1 + that of the channel.
constexpr int kLaneBits = 24;

class NcclCommunicator final : public Communicator, public NcclWatched {
 public:
  /// `owned` or only `control`; takes `handle` over.
  NcclCommunicator(std::shared_ptr<NcclDomain> domain, Communicator& control,
                   std::unique_ptr<Communicator> owned, NcclHandle handle,
                   NcclHandle root = nullptr)
      : domain_(std::move(domain)),
        owned_(std::move(owned)),
        control_(control),
        rank_(control.rank()),
        size_(control.size()),
        uncaught_(std::uncaught_exceptions()),
        root_(root),
        lane_(*domain_),
        ready_(make_event(domain_->device)),
        channels_(2 * static_cast<std::size_t>(size_)) {
    lane_.handle = handle;
    set_name(control.name());
    domain_->add(*this);
  }
  ~NcclCommunicator() override;

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  void* native() const override { return const_cast<NcclHandle*>(&lane_.handle); }
  std::unique_ptr<Communicator> split(const SplitRule& rule, const std::string& name) override;

  Work all_reduce(Tensor inout, ReduceOp op, Stream& stream) override;
  Work reduce_scatter(ConstTensor in, Tensor out, ReduceOp op, Stream& stream) override;
  Work all_gather(ConstTensor in, Tensor out, Stream& stream) override;
  Work all_to_all(ConstTensor in, Tensor out, Stream& stream) override;
  Work broadcast(Tensor inout, int root, Stream& stream) override;
  Work send(ConstTensor tensor, int to, Stream& stream) override;
  Work recv(Tensor tensor, int from, Stream& stream) override;

  void barrier() override {
    count(Collective::barrier, 0);
    control_.barrier();
  }
  void host_all_reduce(std::span<double> values, ReduceOp op) override { reduce_host(values, op); }
  void host_all_reduce(std::span<std::int64_t> values, ReduceOp op) override {
    reduce_host(values, op);
  }
  void host_all_reduce(std::span<std::uint64_t> values, ReduceOp op) override {
    reduce_host(values, op);
  }
  std::string host_broadcast(std::string text, int root) override {
    std::string result = control_.host_broadcast(std::move(text), root);
    count(Collective::host, result.size());
    return result;
  }
  std::vector<std::string> host_all_gather(const std::string& text) override {
    count(Collective::host, text.size());
    return control_.host_all_gather(text);
  }

  void inspect() override;
  void abort_now() override;

 protected:
  void wait(std::uint64_t id, Stream& stream) override;

 private:
  template <class T>
  void reduce_host(std::span<T> values, ReduceOp op) {
    count(Collective::host, values.size_bytes());
    control_.host_all_reduce(values, op);
  }
  bool on_host(Collective kind, ConstTensor in, ConstTensor out, const Stream& stream) const;
  template <class Launch>
  Work queue(Collective kind, int peer, std::size_t bytes, const char* call, Stream& stream,
             Launch&& launch);
  int exchange_parts(ConstTensor in, Tensor out, NcclHandle comm, void* stream);
  Work message(bool sends, std::byte* data, std::size_t bytes, int peer, Stream& stream);
  int launch_message(const Channel& channel, std::byte* data, std::size_t bytes, NcclHandle comm,
                     void* stream) const;
  void connect(Channel& channel);
  void wait_for_channel(Channel& channel, std::uint64_t number, std::unique_lock<std::mutex>& lock);

  std::vector<NcclLane*> lanes();
  void check_failed() const;
  void fail_with(const std::string& text);
  void throw_failure() const;
  void look_at(NcclLane& lane);

  std::shared_ptr<NcclDomain> domain_;
  std::unique_ptr<Communicator> owned_;
  Communicator& control_;
  const int rank_, size_;
  const int uncaught_;
  NcclHandle root_;  // non-blocking; made when the group is first split
  NcclLane lane_;
  std::unique_ptr<Event> ready_;
  std::vector<std::unique_ptr<Channel>> channels_;  // 2 * peer + (sends ? 1 : 0)

  std::atomic<bool> closing_{false}, failed_{false};
  mutable std::mutex failure_mutex_;
  std::string failure_;
  // Of the polling thread.
  std::optional<Activity::DeviceWait> device_wait_;
  std::pair<const NcclLane*, std::uint64_t> seen_running_{nullptr, 0};
  std::mutex channels_mutex_;  // channels_: caller and polling thread
};

// ---- life
// -----------------------------------------------------------------------------------------

NcclCommunicator::~NcclCommunicator() {
  domain_->remove(*this);
  device_wait_.reset();
  closing_ = true;
  // In an order that all ranks share, should closing a pair wait for the other one.
  std::vector<Channel*> open;
  for (const auto& channel : channels_) {
    if (!channel) continue;
    if (channel->connector.joinable()) channel->connector.join();
    open.push_back(channel.get());
  }
  std::sort(open.begin(), open.end(), [&](const Channel* a, const Channel* b) {
    const auto ends = [&](const Channel* c) {
      return c->sends ? std::pair(rank_, c->peer) : std::pair(c->peer, rank_);
    };
    return ends(a) < ends(b);
  });
  // Peers may never come: nobody waits for them while an exception is on its way to main().
  const bool abort = failed_ || std::uncaught_exceptions() > uncaught_;
  for (Channel* channel : open) channel->lane.close(abort);
  lane_.close(abort);
  close_nccl(*domain_, root_, abort);
}

std::unique_ptr<Communicator> NcclCommunicator::split(const SplitRule& rule,
                                                      const std::string& name) {
  check_failed();
  std::unique_ptr<Communicator> part = control_.split(rule, name);
  if (size_ == 1) return part;
  if (root_ == nullptr) root_ = connect_nccl(*domain_, control_);
  const SplitPlace place = rule(rank_);
  const bool alone = part->size() == 1;
  const NcclHandle handle =
      split_nccl(*domain_, control_, root_, alone ? -1 : place.color, part->rank());
  if (alone) return part;
  Communicator& control = *part;
  return std::make_unique<NcclCommunicator>(domain_, control, std::move(part), handle);
}

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

// ---- operations
// -----------------------------------------------------------------------------------

// Whether the operation is for the control group; checks devices.
bool NcclCommunicator::on_host(Collective kind, ConstTensor in, ConstTensor out,
                               const Stream& stream) const {
  const ConstTensor first = in ? in : out;
  require(bool(first), "{}: the tensor is empty", name_of(kind));
  require(!out || out.device == first.device, "{}: the input is on {} and the output on {}",
          name_of(kind), name_of(first.device), name_of(out.device));
  if (first.device.is_cpu()) return true;
  require(first.device == domain_->device,
          "the {} group works with {} and was given a tensor of {}", name(),
          name_of(domain_->device), name_of(first.device));
  require(stream.device() == first.device, "{} of a tensor of {} was queued on a stream of {}",
          name_of(kind), name_of(first.device), name_of(stream.device()));
  return false;
}

template <class Launch>
Work NcclCommunicator::queue(Collective kind, int peer, std::size_t bytes, const char* call,
                             Stream& stream, Launch&& launch) {
  check_failed();
  count(kind, bytes);
  const std::lock_guard lock(lane_.mutex);
  if (lane_.handle == nullptr) throw_failure();
  const Activity::Waiting waiting(kind, name(), peer);
  ready_->record(stream);
  const std::uint64_t number =
      lane_.run(kind, peer, name(), call, *ready_, [&](NcclHandle comm, void* queue) {
        return bytes == 0 ? kNcclSuccess : launch(comm, queue);
      });
  return {this, number << kLaneBits};
}

Work NcclCommunicator::all_reduce(Tensor inout, ReduceOp op, Stream& stream) {
  check_all_reduce(inout, op);
  if (on_host(Collective::all_reduce, inout, inout, stream) ||
      !NcclLibrary::supports(inout.dtype)) {
    count(Collective::all_reduce, inout.bytes());
    return control_.all_reduce(inout, op, stream);
  }
  return queue(Collective::all_reduce, -1, inout.bytes(), "ncclAllReduce", stream,
               [&](NcclHandle comm, void* to) {
                 return domain_->library.all_reduce(inout.data, inout.data,
                                                    static_cast<std::size_t>(inout.numel()),
                                                    inout.dtype, op, comm, to);
               });
}

Work NcclCommunicator::reduce_scatter(ConstTensor in, Tensor out, ReduceOp op, Stream& stream) {
  check_reduce_scatter(in, out, op);
  if (on_host(Collective::reduce_scatter, in, out, stream) || !NcclLibrary::supports(in.dtype)) {
    count(Collective::reduce_scatter, in.bytes());
    return control_.reduce_scatter(in, out, op, stream);
  }
  return queue(Collective::reduce_scatter, -1, in.bytes(), "ncclReduceScatter", stream,
               [&](NcclHandle comm, void* to) {
                 return domain_->library.reduce_scatter(in.data, out.data,
                                                        static_cast<std::size_t>(out.numel()),
                                                        in.dtype, op, comm, to);
               });
}

// What only moves, moves as bytes.
Work NcclCommunicator::all_gather(ConstTensor in, Tensor out, Stream& stream) {
  check_all_gather(in, out);
  if (on_host(Collective::all_gather, in, out, stream)) {
    count(Collective::all_gather, in.bytes());
    return control_.all_gather(in, out, stream);
  }
  return queue(Collective::all_gather, -1, in.bytes(), "ncclAllGather", stream,
               [&](NcclHandle comm, void* to) {
                 return domain_->library.all_gather(in.data, out.data, in.bytes(), DType::u8, comm,
                                                    to);
               });
}

Work NcclCommunicator::broadcast(Tensor inout, int root, Stream& stream) {
  check_peer("broadcast", root);
  if (on_host(Collective::broadcast, inout, inout, stream)) {
    count(Collective::broadcast, inout.bytes());
    return control_.broadcast(inout, root, stream);
  }
  return queue(Collective::broadcast, root, inout.bytes(), "ncclBroadcast", stream,
               [&](NcclHandle comm, void* to) {
                 return domain_->library.broadcast(inout.data, inout.data, inout.bytes(), DType::u8,
                                                   root, comm, to);
               });
}

int NcclCommunicator::exchange_parts(ConstTensor in, Tensor out, NcclHandle comm, void* stream) {
  NcclLibrary& nccl = domain_->library;
  const std::size_t part = in.bytes() / static_cast<std::size_t>(size_);
  int code = nccl.group_start();
  if (code != kNcclSuccess) return code;
  for (int r = 0; r < size_ && code == kNcclSuccess; ++r) {
    const std::size_t at = static_cast<std::size_t>(r) * part;
    code = nccl.send(in.data + at, part, DType::u8, r, comm, stream);
    if (code == kNcclSuccess) code = nccl.recv(out.data + at, part, DType::u8, r, comm, stream);
  }
  const int end = nccl.group_end();  // also after a failure, which NCCL then gives back
  return code != kNcclSuccess ? code : end;
}

Work NcclCommunicator::all_to_all(ConstTensor in, Tensor out, Stream& stream) {
  check_all_to_all(in, out);
  if (on_host(Collective::all_to_all, in, out, stream)) {
    count(Collective::all_to_all, in.bytes());
    return control_.all_to_all(in, out, stream);
  }
  return queue(Collective::all_to_all, -1, in.bytes(), "ncclGroupEnd (all_to_all)", stream,
               [&](NcclHandle comm, void* to) { return exchange_parts(in, out, comm, to); });
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

int NcclCommunicator::launch_message(const Channel& channel, std::byte* data, std::size_t bytes,
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
    auto made = std::make_unique<Channel>(*domain_, peer, sends);
    const std::lock_guard lock(channels_mutex_);
    channels_[index] = std::move(made);
  }
  Channel& channel = *channels_[index];
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
void NcclCommunicator::connect(Channel& channel) {
  try {
    const NcclHandle handle =
        connect_nccl_pair(*domain_, control_, channel.peer, channel.sends ? 0 : 1, closing_);
    const std::lock_guard lock(channel.lane.mutex);
    channel.lane.handle = handle;
    if (handle == nullptr) return;
    const Collective kind = channel.sends ? Collective::send : Collective::recv;
    for (const Channel::Message& early : channel.early) {
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

void NcclCommunicator::wait_for_channel(Channel& channel, std::uint64_t number,
                                        std::unique_lock<std::mutex>& lock) {
  if (number <= channel.lane.issued()) return;
  const Activity::Waiting waiting(channel.sends ? Collective::send : Collective::recv, name(),
                                  channel.peer);
  const std::int64_t begin = monotonic_ns();
  channel.changed.wait(lock, [&] { return number <= channel.lane.issued() || failed_; });
  count_wait(monotonic_ns() - begin);
}

void NcclCommunicator::wait(std::uint64_t id, Stream& stream) {
  check_failed();
  const std::uint64_t number = id >> kLaneBits;
  const std::size_t index = id & ((std::uint64_t{1} << kLaneBits) - 1);
  Channel* channel = index == 0 ? nullptr : channels_[index - 1].get();
  NcclLane& lane = channel != nullptr ? channel->lane : lane_;
  look_at(lane);
  std::unique_lock lock(lane.mutex);
  if (channel != nullptr) wait_for_channel(*channel, number, lock);
  check_failed();
  lane.join(number, stream);
}

}  // namespace

std::unique_ptr<Communicator> make_nccl_communicator(Communicator& control, Device device,
                                                     NcclLibrary& library,
                                                     const NcclOptions& options) {
  auto domain = std::make_shared<NcclDomain>(library, device, options);
  NcclHandle root = connect_nccl(*domain, control);
  NcclHandle handle = nullptr;
  try {
    handle = split_nccl(*domain, control, root, 0, control.rank());
  } catch (...) {
    close_nccl(*domain, root, true);
    throw;
  }
  return std::make_unique<NcclCommunicator>(std::move(domain), control, nullptr, handle, root);
}

}  // namespace neox
