// Groups over NCCL: their life and their collective operations.

#include "comm/nccl_communicator.h"

#include <algorithm>
#include <exception>

#include "comm/nccl_group.h"

namespace neox {

// ---- life
// -----------------------------------------------------------------------------------------

NcclCommunicator::~NcclCommunicator() {
  domain_->remove(*this);
  device_wait_.reset();
  closing_ = true;
  // In an order that all ranks share, should closing a pair wait for the other one.
  std::vector<NcclChannel*> open;
  for (const auto& channel : channels_) {
    if (!channel) continue;
    if (channel->connector.joinable()) channel->connector.join();
    open.push_back(channel.get());
  }
  std::sort(open.begin(), open.end(), [&](const NcclChannel* a, const NcclChannel* b) {
    const auto ends = [&](const NcclChannel* c) {
      return c->sends ? std::pair(rank_, c->peer) : std::pair(c->peer, rank_);
    };
    return ends(a) < ends(b);
  });
  // Peers may never come: nobody waits for them while an exception is on its way to main().
  const bool abort = failed_ || std::uncaught_exceptions() > uncaught_;
  for (NcclChannel* channel : open) channel->lane.close(abort);
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

void NcclCommunicator::wait(std::uint64_t id, Stream& stream) {
  check_failed();
  const std::uint64_t number = id >> kLaneBits;
  const std::size_t index = id & ((std::uint64_t{1} << kLaneBits) - 1);
  NcclChannel* channel = index == 0 ? nullptr : channels_[index - 1].get();
  NcclLane& lane = channel != nullptr ? channel->lane : lane_;
  look_at(lane);
  std::unique_lock lock(lane.mutex);
  if (channel != nullptr) wait_for_channel(*channel, number, lock);
  check_failed();
  lane.join(number, stream);
}

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
