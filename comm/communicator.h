#pragma once
// Collective communication on tensors. One rank is a no-op implementation, so no caller branches.

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "comm/traffic.h"
#include "core/tensor/tensor.h"

namespace neox {

enum class ReduceOp : std::uint8_t { sum, max, min };

class Communicator;

/// Handle of one asynchronous operation. A value; wait() may be called more than once, and must be
/// once for operations on a device's tensors, which keep memory on their way until then.
class Work {
 public:
  Work() = default;
  Work(Communicator* owner, std::uint64_t id) : owner_(owner), id_(id) {}
  /// Makes later work of `stream` (and the host, on the CPU) wait for the operation. Throws the
  /// operation's Error. The host may be held up until others have come, never the call that queued
  /// the operation.
  void wait(Stream& stream) const;

 private:
  Communicator* owner_ = nullptr;
  std::uint64_t id_ = 0;
};

/// Where a rank goes in a split. A negative color: into no group, it gets one of its own.
struct SplitPlace {
  int color = 0;
  int key = 0;
};
/// The place of every rank of the group that is split.
using SplitRule = std::function<SplitPlace(int rank)>;

/// A group of ranks. Operations are queued in call order after the work already on `stream` and run
/// asynchronously; every rank of the group must make the same calls in the same order (a send and
/// its recv need only agree with each other, and never block what is queued after them). Tensors
/// must stay alive and untouched until Work::wait, except that queued operations may follow one
/// another on the same tensor. Tensors and `stream` are of one device; memory of the host may also
/// be that of a device's stream. Reductions take every dtype; bf16 and f16 are reduced in f32 and
/// rounded once (by NCCL, perhaps after every addition).
class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  /// Ranks of equal color form a new group, ordered by key, then by rank. The rule must be the same
  /// pure function on all ranks; each rank asks it for all of them, so that a rank without others
  /// (a dry run) knows its groups too. `name` says in messages and tables which group it is.
  /// Collective.
  virtual std::unique_ptr<Communicator> split(const SplitRule& rule, const std::string& name) = 0;

  virtual Work all_reduce(Tensor inout, ReduceOp op, Stream& stream) = 0;
  /// out [n] = part rank() of the reduction of in [size*n].
  virtual Work reduce_scatter(ConstTensor in, Tensor out, ReduceOp op, Stream& stream) = 0;
  /// out [size*n] = every rank's in [n]; `in` may be part rank() of out.
  virtual Work all_gather(ConstTensor in, Tensor out, Stream& stream) = 0;
  /// Part r of in [size*n] goes to rank r.
  virtual Work all_to_all(ConstTensor in, Tensor out, Stream& stream) = 0;
  virtual Work broadcast(Tensor inout, int root, Stream& stream) = 0;
  virtual Work send(ConstTensor tensor, int to, Stream& stream) = 0;
  virtual Work recv(Tensor tensor, int from, Stream& stream) = 0;

  // ---- control plane: blocking, small, on host memory ---------------------------------------
  virtual void barrier() = 0;
  virtual void host_all_reduce(std::span<double> values, ReduceOp op) = 0;
  virtual void host_all_reduce(std::span<std::int64_t> values, ReduceOp op) = 0;
  virtual void host_all_reduce(std::span<std::uint64_t> values, ReduceOp op) = 0;
  /// Every rank gets rank `root`'s text.
  virtual std::string host_broadcast(std::string text, int root) = 0;
  /// Every rank gets all texts, in rank order.
  virtual std::vector<std::string> host_all_gather(const std::string& text) = 0;

  /// The library's handle (a pointer to MPI_Comm, to ncclComm_t); null when there is none.
  virtual void* native() const { return nullptr; }

  /// "world", "tensor", ...
  const std::string& name() const { return name_; }
  void set_name(std::string name) { name_ = std::move(name); }

  // ---- accounting ----------------------------------------------------------------------------
  const TrafficCounts& traffic() const { return traffic_; }
  Traffic traffic(Collective collective) const { return traffic_.total(collective); }
  Traffic traffic(Purpose purpose) const { return traffic_.total(purpose); }
  Traffic traffic(Purpose purpose, Collective collective) const {
    return traffic_.at(purpose, collective);
  }
  /// Nanoseconds in which this rank's host stood still for operations of the group: in Work::wait
  /// and in the control plane.
  std::int64_t waited_ns() const { return waited_ns_; }
  /// What the following calls are for; returns what it was. Prefer TrafficScope.
  Purpose set_purpose(Purpose purpose) { return std::exchange(purpose_, purpose); }

 protected:
  friend class Work;
  virtual void wait(std::uint64_t id, Stream& stream) = 0;
  void count(Collective collective, std::size_t bytes) {
    const bool control = collective == Collective::host || collective == Collective::barrier;
    traffic_.at(control ? Purpose::control : purpose_, collective) +=
        Traffic{1, static_cast<std::int64_t>(bytes)};
  }
  void count_wait(std::int64_t nanoseconds) { waited_ns_ += nanoseconds; }
  // What every implementation requires of its arguments; they throw Error.
  void check_all_reduce(ConstTensor inout, ReduceOp op) const;
  void check_reduce_scatter(ConstTensor in, ConstTensor out, ReduceOp op) const;
  void check_all_gather(ConstTensor in, ConstTensor out) const;
  void check_all_to_all(ConstTensor in, ConstTensor out) const;
  void check_peer(const char* operation, int peer) const;
  /// A peer that is not this rank itself.
  void check_other(const char* operation, int peer) const;

 private:
  TrafficCounts traffic_;
  std::int64_t waited_ns_ = 0;
  Purpose purpose_ = Purpose::other;
  std::string name_ = "self";
};

/// The calls on `group` during its life are for `purpose`.
class TrafficScope {
 public:
  TrafficScope(Communicator& group, Purpose purpose)
      : group_(group), before_(group.set_purpose(purpose)) {}
  ~TrafficScope() { group_.set_purpose(before_); }
  TrafficScope(const TrafficScope&) = delete;
  TrafficScope& operator=(const TrafficScope&) = delete;

 private:
  Communicator& group_;
  Purpose before_;
};

inline void Work::wait(Stream& stream) const {
  if (owner_ != nullptr) owner_->wait(id_, stream);
}

/// A group of one: every operation is a copy or nothing.
std::unique_ptr<Communicator> make_self_communicator(const std::string& name = "self");

/// All ranks agree that everything went well. Each passes its own error text (empty = fine); when
/// any is not empty, every rank throws the same Error: "<what> failed on rank R (host): text"; a
/// group of one: "<what> failed: text". Collective.
void agree(Communicator& group, const std::string& what, const std::string& error);

}  // namespace neox
