#pragma once
// The class behind make_nccl_communicator. Private to comm/nccl_*.

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "comm/activity.h"
#include "comm/nccl_lane.h"

namespace neox {

/// Messages between this rank and one other in one direction. Each has a handle and a stream of its
/// own: on one stream, a message would hold up all later operations until its peer comes.
struct NcclChannel {
  NcclChannel(NcclDomain& domain, int peer_rank, bool is_sender)
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
  // A Work's id: the operation's number on its lane, and the lane: 0, or 1 + that of the channel.
  static constexpr int kLaneBits = 24;

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
  int launch_message(const NcclChannel& channel, std::byte* data, std::size_t bytes,
                     NcclHandle comm, void* stream) const;
  void connect(NcclChannel& channel);
  void wait_for_channel(NcclChannel& channel, std::uint64_t number,
                        std::unique_lock<std::mutex>& lock);

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
  std::vector<std::unique_ptr<NcclChannel>> channels_;  // 2 * peer + (sends ? 1 : 0)

  std::atomic<bool> closing_{false}, failed_{false};
  mutable std::mutex failure_mutex_;
  std::string failure_;
  // Of the polling thread.
  std::optional<Activity::DeviceWait> device_wait_;
  std::pair<const NcclLane*, std::uint64_t> seen_running_{nullptr, 0};
  std::mutex channels_mutex_;  // channels_: caller and polling thread
};

}  // namespace neox
