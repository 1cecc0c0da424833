// The group of MPI ranks: checks arguments, counts, and hands queued operations to the group's
// worker thread, tensors of a device by way of page-locked host memory; the control plane runs in
// the calling thread on a communicator of its own.

#include <algorithm>
#include <exception>
#include <limits>
#include <numeric>
#include <optional>

#include "comm/activity.h"
#include "comm/activity_slot.h"
#include "comm/mpi.h"
#include "comm/mpi_internal.h"
#include "comm/mpi_worker.h"

namespace neox {
namespace {

constexpr std::int64_t kTextPiece = std::int64_t{1} << 30;

MPI_Comm duplicate(MPI_Comm group) {
  MPI_Comm copy = MPI_COMM_NULL;
  check_mpi(MPI_Comm_dup(group, &copy), "MPI_Comm_dup", Collective::host);
  check_mpi(MPI_Comm_set_errhandler(copy, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler",
            Collective::host);
  return copy;
}

/// Frees the handle, unless MPI is gone or peers may not come along.
class OwnedComm {
 public:
  explicit OwnedComm(MPI_Comm comm) : comm_(comm), uncaught_(std::uncaught_exceptions()) {}
  ~OwnedComm() {
    int finalized = 0;
    MPI_Finalized(&finalized);
    if (finalized == 0 && std::uncaught_exceptions() == uncaught_) MPI_Comm_free(&comm_);
  }
  OwnedComm(const OwnedComm&) = delete;
  OwnedComm& operator=(const OwnedComm&) = delete;
  MPI_Comm get() const { return comm_; }
  const MPI_Comm* address() const { return &comm_; }

 private:
  MPI_Comm comm_;
  int uncaught_;
};

class MpiCommunicator final : public Communicator {
 public:
  /// Takes `control` over.
  MpiCommunicator(MPI_Comm control, const std::string& name)
      : control_(control), data_(duplicate(control)), worker_(data_.get()) {
    MPI_Comm_rank(control_.get(), &rank_);
    MPI_Comm_size(control_.get(), &size_);
    set_name(name);
  }
  int rank() const override { return rank_; }
  int size() const override { return size_; }
  void* native() const override { return const_cast<MPI_Comm*>(control_.address()); }
  std::unique_ptr<Communicator> split(const SplitRule& rule, const std::string& name) override;

  Work all_reduce(Tensor inout, ReduceOp op, Stream& stream) override;
  Work reduce_scatter(ConstTensor in, Tensor out, ReduceOp op, Stream& stream) override;
  Work all_gather(ConstTensor in, Tensor out, Stream& stream) override;
  Work all_to_all(ConstTensor in, Tensor out, Stream& stream) override;
  Work broadcast(Tensor inout, int root, Stream& stream) override;
  Work send(ConstTensor tensor, int to, Stream& stream) override;
  Work recv(Tensor tensor, int from, Stream& stream) override;

  void barrier() override;
  void host_all_reduce(std::span<double> values, ReduceOp op) override { reduce_host(values, op); }
  void host_all_reduce(std::span<std::int64_t> values, ReduceOp op) override {
    reduce_host(values, op);
  }
  void host_all_reduce(std::span<std::uint64_t> values, ReduceOp op) override {
    reduce_host(values, op);
  }
  std::string host_broadcast(std::string text, int root) override;
  std::vector<std::string> host_all_gather(const std::string& text) override;

 protected:
  // The last bit of a Work's id says whether a device takes part.
  void wait(std::uint64_t id, Stream& stream) override {
    count_wait(worker_.wait(id >> 1, name()));
    if ((id & 1) != 0) staging_->finish(id >> 1, stream);
  }

 private:
  Work queue(const MpiOperation& operation, std::size_t payload, ConstTensor in, Tensor out,
             Stream& stream);
  Staging& staging_on(Device device);
  void finish(MPI_Request request, Collective kind = Collective::host) {
    const auto done = [&] { return test_all(std::span(&request, 1), kind); };
    if (done()) return;
    const Activity::Waiting waiting(kind, name());
    const std::int64_t begin = monotonic_ns();
    for (Backoff backoff; !done();) backoff.pause();
    count_wait(monotonic_ns() - begin);
  }
  template <class T>
  void reduce_host(std::span<T> values, ReduceOp op);
  void broadcast_bytes(char* data, std::int64_t bytes, int root);

  OwnedComm control_, data_;
  int rank_ = 0, size_ = 1;
  std::optional<Staging> staging_;
  MpiWorker worker_;  // last: its thread ends before what it uses does
};

std::unique_ptr<Communicator> MpiCommunicator::split(const SplitRule& rule,
                                                     const std::string& name) {
  const SplitPlace place = rule(rank_);
  MPI_Comm part = MPI_COMM_NULL;
  check_mpi(MPI_Comm_split(control_.get(), place.color < 0 ? MPI_UNDEFINED : place.color, place.key,
                           &part),
            "MPI_Comm_split", Collective::host);
  return adopt_communicator(part, name);
}

// ---- queued
// ---------------------------------------------------------------------------------------

Staging& MpiCommunicator::staging_on(Device device) {
  if (!staging_) staging_.emplace(device);
  require(staging_->device() == device, "the {} group works with {} and was given a tensor of {}",
          name(), name_of(staging_->device()), name_of(device));
  return *staging_;
}

// The device of an operation, for which `stream` must be a stream; the host when neither has one.
Device device_of(Collective kind, ConstTensor in, ConstTensor out, const Stream& stream) {
  const ConstTensor first = in ? in : out;
  require(bool(first), "{}: the tensor is empty", name_of(kind));
  require(!out || out.device == first.device, "{}: the input is on {} and the output on {}",
          name_of(kind), name_of(first.device), name_of(out.device));
  if (first.device.is_cpu()) return stream.device();
  require(stream.device() == first.device, "{} of a tensor of {} was queued on a stream of {}",
          name_of(kind), name_of(first.device), name_of(stream.device()));
  return first.device;
}

// Where input and output of an operation lie in the slot of `bytes`; the same places that host
// tensors may have, so that the worker sees no difference.
struct Places {
  std::size_t in = 0, out = 0, bytes = 0;
};
Places places_of(Collective kind, std::size_t in, std::size_t out, std::size_t rank) {
  if (kind == Collective::reduce_scatter) return {0, rank * out, in};
  if (kind == Collective::all_gather) return {rank * in, 0, out};
  if (kind == Collective::all_to_all) {
    const std::size_t second = (in + 255) / 256 * 256;
    return {0, second, second + out};
  }
  return {0, 0, std::max(in, out)};
}

Work MpiCommunicator::queue(const MpiOperation& operation, std::size_t payload, ConstTensor in,
                            Tensor out, Stream& stream) {
  const Device device = device_of(operation.kind, in, out, stream);
  MpiOperation queued = operation;
  queued.in = in.data;
  queued.out = out.data;
  if (device.is_cpu()) {
    count(operation.kind, payload);
    return {this, worker_.submit(queued) << 1};
  }
  Staging& staging = staging_on(device);
  queued.staging = &staging;
  if ((in ? in.device : out.device).is_cpu()) {
    queued.slot = &staging.begin(0, stream);
  } else {
    const bool is_root = rank_ == operation.peer,
               broadcast = operation.kind == Collective::broadcast;
    const Places at = places_of(operation.kind, in ? in.bytes() : 0, out ? out.bytes() : 0,
                                static_cast<std::size_t>(rank_));
    queued.slot = &staging.begin(at.bytes, stream);
    std::byte* memory = queued.slot->data();
    queued.in = memory == nullptr ? nullptr : memory + at.in;
    queued.out = memory == nullptr ? nullptr : memory + at.out;
    if (in && !(broadcast && !is_root)) staging.load(*queued.slot, in, memory + at.in);
    if (out && !(broadcast && is_root)) Staging::set_output(*queued.slot, out, queued.out);
  }
  count(operation.kind, payload);
  const std::uint64_t id = worker_.submit(queued);
  staging.keep(*queued.slot, id);
  return {this, (id << 1) | 1};
}

Work MpiCommunicator::all_reduce(Tensor inout, ReduceOp op, Stream& stream) {
  check_all_reduce(inout, op);
  return queue({Collective::all_reduce, op, inout.dtype, 0, nullptr, nullptr, inout.numel()},
               inout.bytes(), inout, inout, stream);
}

Work MpiCommunicator::reduce_scatter(ConstTensor in, Tensor out, ReduceOp op, Stream& stream) {
  check_reduce_scatter(in, out, op);
  return queue({Collective::reduce_scatter, op, in.dtype, 0, nullptr, nullptr, out.numel()},
               in.bytes(), in, out, stream);
}

Work MpiCommunicator::all_gather(ConstTensor in, Tensor out, Stream& stream) {
  check_all_gather(in, out);
  return queue({Collective::all_gather, ReduceOp::sum, in.dtype, 0, nullptr, nullptr, in.numel()},
               in.bytes(), in, out, stream);
}

Work MpiCommunicator::all_to_all(ConstTensor in, Tensor out, Stream& stream) {
  check_all_to_all(in, out);
  return queue(
      {Collective::all_to_all, ReduceOp::sum, in.dtype, 0, nullptr, nullptr, in.numel() / size_},
      in.bytes(), in, out, stream);
}

Work MpiCommunicator::broadcast(Tensor inout, int root, Stream& stream) {
  check_peer("broadcast", root);
  return queue(
      {Collective::broadcast, ReduceOp::sum, inout.dtype, root, nullptr, nullptr, inout.numel()},
      inout.bytes(), inout, inout, stream);
}

Work MpiCommunicator::send(ConstTensor tensor, int to, Stream& stream) {
  check_other("send", to);
  return queue(
      {Collective::send, ReduceOp::sum, tensor.dtype, to, nullptr, nullptr, tensor.numel()},
      tensor.bytes(), tensor, {}, stream);
}

Work MpiCommunicator::recv(Tensor tensor, int from, Stream& stream) {
  check_other("recv", from);
  return queue(
      {Collective::recv, ReduceOp::sum, tensor.dtype, from, nullptr, nullptr, tensor.numel()},
      tensor.bytes(), {}, tensor, stream);
}

// ---- control plane
// --------------------------------------------------------------------------------

void MpiCommunicator::barrier() {
  count(Collective::barrier, 0);
  MPI_Request request = MPI_REQUEST_NULL;
  check_mpi(MPI_Ibarrier(control_.get(), &request), "MPI_Ibarrier", Collective::barrier);
  finish(request, Collective::barrier);
}

template <class T>
void MpiCommunicator::reduce_host(std::span<T> values, ReduceOp op) {
  count(Collective::host, values.size_bytes());
  constexpr std::size_t kPiece = std::size_t{1} << 17;
  for (std::size_t begin = 0; begin < values.size(); begin += kPiece) {
    const int n = static_cast<int>(std::min(kPiece, values.size() - begin));
    MPI_Request request = MPI_REQUEST_NULL;
    check_mpi(MPI_Iallreduce(MPI_IN_PLACE, values.data() + begin, n, mpi_type(dtype_of<T>),
                             mpi_op(op), control_.get(), &request),
              "MPI_Iallreduce", Collective::host);
    finish(request);
  }
}

void MpiCommunicator::broadcast_bytes(char* data, std::int64_t bytes, int root) {
  for (std::int64_t begin = 0; begin < bytes; begin += kTextPiece) {
    const int n = static_cast<int>(std::min(kTextPiece, bytes - begin));
    MPI_Request request = MPI_REQUEST_NULL;
    check_mpi(MPI_Ibcast(data + begin, n, MPI_BYTE, root, control_.get(), &request), "MPI_Ibcast",
              Collective::host, root);
    finish(request);
  }
}

std::string MpiCommunicator::host_broadcast(std::string text, int root) {
  check_peer("host_broadcast", root);
  auto length = static_cast<std::int64_t>(text.size());
  broadcast_bytes(reinterpret_cast<char*>(&length), sizeof length, root);
  text.resize(static_cast<std::size_t>(length));
  broadcast_bytes(text.data(), length, root);
  count(Collective::host, text.size());
  return text;
}

std::vector<std::string> MpiCommunicator::host_all_gather(const std::string& text) {
  count(Collective::host, text.size());
  std::vector<std::int64_t> lengths(static_cast<std::size_t>(size_));
  lengths[static_cast<std::size_t>(rank_)] = static_cast<std::int64_t>(text.size());
  MPI_Request request = MPI_REQUEST_NULL;
  check_mpi(MPI_Iallgather(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, lengths.data(), 1, MPI_INT64_T,
                           control_.get(), &request),
            "MPI_Iallgather", Collective::host);
  finish(request);
  const std::int64_t total = std::accumulate(lengths.begin(), lengths.end(), std::int64_t{0});
  require(total <= std::numeric_limits<int>::max(),
          "host_all_gather: {} bytes from {} ranks are more than MPI can gather at once", total,
          size_);
  std::vector<int> counts(lengths.begin(), lengths.end()), begins(lengths.size(), 0);
  std::partial_sum(counts.begin(), counts.end() - 1, begins.begin() + 1);
  std::string all(static_cast<std::size_t>(total), '\0');
  check_mpi(MPI_Iallgatherv(text.data(), static_cast<int>(text.size()), MPI_BYTE, all.data(),
                            counts.data(), begins.data(), MPI_BYTE, control_.get(), &request),
            "MPI_Iallgatherv", Collective::host);
  finish(request);
  std::vector<std::string> texts;
  for (std::size_t i = 0; i < lengths.size(); ++i) {
    texts.push_back(
        all.substr(static_cast<std::size_t>(begins[i]), static_cast<std::size_t>(counts[i])));
  }
  return texts;
}

}  // namespace

std::unique_ptr<Communicator> adopt_communicator(MPI_Comm group, const std::string& name) {
  int size = 1;
  if (group != MPI_COMM_NULL) MPI_Comm_size(group, &size);
  if (size == 1) {
    if (group != MPI_COMM_NULL) MPI_Comm_free(&group);
    return make_self_communicator(name);
  }
  check_mpi(MPI_Comm_set_errhandler(group, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler",
            Collective::host);
  return std::make_unique<MpiCommunicator>(group, name);
}

std::unique_ptr<Communicator> make_world_communicator() {
  return adopt_communicator(duplicate(MPI_COMM_WORLD), "world");
}

}  // namespace neox
