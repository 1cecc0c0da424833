#include "comm/communicator.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "comm/host_name.h"

namespace neox {

namespace {

/// The group of one. Counts like any other, so that traffic reports have one shape.
class SelfCommunicator final : public Communicator {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  std::unique_ptr<Communicator> split(const SplitRule&, const std::string& name) override {
    return make_self_communicator(name);
  }

  Work all_reduce(Tensor inout, ReduceOp op, Stream&) override {
    check_all_reduce(inout, op);
    count(Collective::all_reduce, inout.bytes());
    return {};
  }
  Work reduce_scatter(ConstTensor in, Tensor out, ReduceOp op, Stream& stream) override {
    check_reduce_scatter(in, out, op);
    count(Collective::reduce_scatter, in.bytes());
    return copy_over(in, out, stream);
  }
  Work all_gather(ConstTensor in, Tensor out, Stream& stream) override {
    check_all_gather(in, out);
    count(Collective::all_gather, in.bytes());
    return copy_over(in, out, stream);
  }
  Work all_to_all(ConstTensor in, Tensor out, Stream& stream) override {
    check_all_to_all(in, out);
    count(Collective::all_to_all, in.bytes());
    return copy_over(in, out, stream);
  }
  Work broadcast(Tensor inout, int root, Stream&) override {
    check_peer("broadcast", root);
    count(Collective::broadcast, inout.bytes());
    return {};
  }
  Work send(ConstTensor, int to, Stream&) override {
    fail("send to rank {}: a group of one has nobody to send to", to);
  }
  Work recv(Tensor, int from, Stream&) override {
    fail("recv from rank {}: a group of one has nobody to receive from", from);
  }

  void barrier() override { count(Collective::barrier, 0); }
  void host_all_reduce(std::span<double> values, ReduceOp) override { count_host(values); }
  void host_all_reduce(std::span<std::int64_t> values, ReduceOp) override { count_host(values); }
  void host_all_reduce(std::span<std::uint64_t> values, ReduceOp) override { count_host(values); }
  std::string host_broadcast(std::string text, int root) override {
    check_peer("host_broadcast", root);
    count(Collective::host, text.size());
    return text;
  }
  std::vector<std::string> host_all_gather(const std::string& text) override {
    count(Collective::host, text.size());
    return {text};
  }

 protected:
  void wait(std::uint64_t, Stream&) override {}

 private:
  template <class T>
  void count_host(std::span<T> values) {
    count(Collective::host, values.size_bytes());
  }
  static Work copy_over(ConstTensor in, Tensor out, Stream& stream) {
    if (in.data != out.data) copy(stream, in, out);
    return {};
  }
};

void check_same_type(const char* operation, DType in, DType out) {
  require(in == out, "{}: input is {} and output is {}; both must have one type", operation,
          name_of(in), name_of(out));
}

}  // namespace

void Communicator::check_all_reduce(ConstTensor inout, ReduceOp) const {
  require(bool(inout), "all_reduce: the tensor is empty");
}

void Communicator::check_reduce_scatter(ConstTensor in, ConstTensor out, ReduceOp) const {
  check_same_type("reduce_scatter", in.dtype, out.dtype);
  require(in.numel() == out.numel() * size(),
          "reduce_scatter: the input has {} elements; {} ranks x {} output elements are {}",
          in.numel(), size(), out.numel(), size() * out.numel());
}

void Communicator::check_all_gather(ConstTensor in, ConstTensor out) const {
  check_same_type("all_gather", in.dtype, out.dtype);
  require(out.numel() == in.numel() * size(),
          "all_gather: the output has {} elements; {} ranks x {} input elements are {}",
          out.numel(), size(), in.numel(), size() * in.numel());
}

void Communicator::check_all_to_all(ConstTensor in, ConstTensor out) const {
  check_same_type("all_to_all", in.dtype, out.dtype);
  require(in.numel() == out.numel() && in.numel() % size() == 0,
          "all_to_all: {} input and {} output elements cannot be cut into {} equal parts",
          in.numel(), out.numel(), size());
}

void Communicator::check_peer(const char* operation, int peer) const {
  require(0 <= peer && peer < size(), "{}: there is no rank {} in a group of {}", operation, peer,
          size());
}

void Communicator::check_other(const char* operation, int peer) const {
  check_peer(operation, peer);
  require(peer != rank(), "{}: rank {} cannot exchange messages with itself", operation, peer);
}

std::unique_ptr<Communicator> make_self_communicator(const std::string& name) {
  auto self = std::make_unique<SelfCommunicator>();
  self->set_name(name);
  return self;
}

void agree(Communicator& group, const std::string& what, const std::string& error) {
  constexpr std::int64_t kFine = std::numeric_limits<std::int64_t>::max();
  std::int64_t first = error.empty() ? kFine : group.rank();
  group.host_all_reduce(std::span(&first, 1), ReduceOp::min);
  if (first == kFine) return;
  if (group.size() == 1) fail("{} failed: {}", what, error);
  std::int64_t failed = error.empty() ? 0 : 1;
  group.host_all_reduce(std::span(&failed, 1), ReduceOp::sum);
  const bool mine = group.rank() == first;
  const std::string text =
      group.host_broadcast(mine ? fmt::format("rank {} ({}): {}", first, host_name(), error) : "",
                           static_cast<int>(first));
  const std::string others =
      failed > 1 ? fmt::format(" (and on {} other rank{})", failed - 1, failed > 2 ? "s" : "") : "";
  fail("{} failed on {}{}", what, text, others);
}

}  // namespace neox
