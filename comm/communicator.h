#pragma once
// Collective communication on tensors. One rank is a no-op implementation, so no caller branches.

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/tensor/tensor.h"

namespace neox {

enum class ReduceOp : std::uint8_t { sum, max, min };

enum class Collective : std::uint8_t {
  all_reduce,
  reduce_scatter,
  all_gather,
  all_to_all,
  broadcast,
  send,
  recv,
  barrier,
  host,
  count
};
std::string_view name_of(Collective collective);

/// Calls and payload bytes of one kind of collective, as this rank passed them in.
struct Traffic {
  std::int64_t calls = 0;
  std::int64_t bytes = 0;
};

class Communicator;

/// Handle of one asynchronous operation. A value; wait() may be called once or more.
class Work {
 public:
  Work() = default;
  Work(Communicator* owner, std::uint64_t id) : owner_(owner), id_(id) {}
  /// Makes later work of `stream` (and the host, on the CPU) wait for the operation. Throws the
  /// operation's Error.
  void wait(Stream& stream) const;

 private:
  Communicator* owner_ = nullptr;
  std::uint64_t id_ = 0;
};

/// A group of ranks. Operations are queued in call order after the work already on `stream` and run
/// asynchronously; every rank of the group must make the same calls in the same order (a send and
/// its recv need only agree with each other, and never block what is queued after them). Tensors
/// must stay alive and untouched until Work::wait. Reductions take every dtype; bf16 and f16 are
/// reduced in f32 and rounded once.
class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  /// Ranks of equal `color` form a new group, ordered by `key`. Collective.
  virtual std::unique_ptr<Communicator> split(int color, int key) = 0;
  /// The group of `members` (ranks of this group, ascending, this rank among them). Collective: all
  /// ranks call it together, each with the members of its own group.
  virtual std::unique_ptr<Communicator> subgroup(const std::vector<int>& members);

  virtual Work all_reduce(Tensor inout, ReduceOp op, Stream& stream) = 0;
  /// out [n] = part rank() of the reduction of in [size*n]; `out` may be that part of `in`.
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

  Traffic traffic(Collective collective) const {
    return traffic_[static_cast<std::size_t>(collective)];
  }

 protected:
  friend class Work;
  virtual void wait(std::uint64_t id, Stream& stream) = 0;
  void count(Collective collective, std::size_t bytes) {
    auto& t = traffic_[static_cast<std::size_t>(collective)];
    ++t.calls;
    t.bytes += static_cast<std::int64_t>(bytes);
  }
  // What every implementation requires of its arguments; they throw Error.
  void check_all_reduce(ConstTensor inout, ReduceOp op) const;
  void check_reduce_scatter(ConstTensor in, ConstTensor out, ReduceOp op) const;
  void check_all_gather(ConstTensor in, ConstTensor out) const;
  void check_all_to_all(ConstTensor in, ConstTensor out) const;
  void check_peer(const char* operation, int peer) const;

 private:
  std::array<Traffic, static_cast<std::size_t>(Collective::count)> traffic_{};
};

inline void Work::wait(Stream& stream) const {
  if (owner_ != nullptr) owner_->wait(id_, stream);
}

/// A group of one: every operation is a copy or nothing.
std::unique_ptr<Communicator> make_self_communicator();

/// Rank `rank` of a group of `size` that does not exist, for dry runs: operations take tensors
/// without memory, do nothing and are done at once; traffic is counted as everywhere. Host
/// collectives leave this rank's own values, and gathers yield `size` copies of its own text.
/// split() is not possible (nobody knows the others' colors): use subgroup().
std::unique_ptr<Communicator> make_dry_run_communicator(int rank, int size);

/// Of the node this process runs on.
std::string host_name();

/// All ranks agree that everything went well. Each passes its own error text (empty = fine); when
/// any is not empty, every rank throws the same Error: "<what> failed on rank R (host): text"; a
/// group of one: "<what> failed: text". Collective.
void agree(Communicator& group, const std::string& what, const std::string& error);

}  // namespace neox
