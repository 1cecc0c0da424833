#include "comm/dry_run_communicator.h"

#include <algorithm>
#include <tuple>
#include <vector>

namespace neox {
namespace {

class DryRunCommunicator final : public Communicator {
 public:
  DryRunCommunicator(int rank, int size, const std::string& name) : rank_(rank), size_(size) {
    set_name(name);
  }
  int rank() const override { return rank_; }
  int size() const override { return size_; }
  std::unique_ptr<Communicator> split(const SplitRule& rule, const std::string& name) override;

  Work all_reduce(Tensor inout, ReduceOp op, Stream&) override {
    check_all_reduce(inout, op);
    return done(Collective::all_reduce, inout);
  }
  Work reduce_scatter(ConstTensor in, Tensor out, ReduceOp op, Stream&) override {
    check_reduce_scatter(in, out, op);
    return done(Collective::reduce_scatter, in);
  }
  Work all_gather(ConstTensor in, Tensor out, Stream&) override {
    check_all_gather(in, out);
    return done(Collective::all_gather, in);
  }
  Work all_to_all(ConstTensor in, Tensor out, Stream&) override {
    check_all_to_all(in, out);
    return done(Collective::all_to_all, in);
  }
  Work broadcast(Tensor inout, int root, Stream&) override {
    check_peer("broadcast", root);
    return done(Collective::broadcast, inout);
  }
  Work send(ConstTensor tensor, int to, Stream&) override {
    check_other("send", to);
    return done(Collective::send, tensor);
  }
  Work recv(Tensor tensor, int from, Stream&) override {
    check_other("recv", from);
    return done(Collective::recv, tensor);
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
    return std::vector<std::string>(static_cast<std::size_t>(size_), text);
  }

 protected:
  void wait(std::uint64_t, Stream&) override {}

 private:
  Work done(Collective collective, ConstTensor tensor) {
    require(bool(tensor), "{}: the tensor is empty", name_of(collective));
    count(collective, tensor.bytes());
    return {};
  }
  template <class T>
  void count_host(std::span<T> values) {
    count(Collective::host, values.size_bytes());
  }

  int rank_, size_;
};

std::unique_ptr<Communicator> DryRunCommunicator::split(const SplitRule& rule,
                                                        const std::string& name) {
  const SplitPlace own = rule(rank_);
  if (own.color < 0) return make_self_communicator(name);
  int size = 0, rank = 0;
  for (int r = 0; r < size_; ++r) {
    const SplitPlace place = rule(r);
    if (place.color != own.color) continue;
    ++size;
    if (std::tuple(place.key, r) < std::tuple(own.key, rank_)) ++rank;
  }
  if (size == 1) return make_self_communicator(name);
  return std::make_unique<DryRunCommunicator>(rank, size, name);
}

}  // namespace

std::unique_ptr<Communicator> make_dry_run_communicator(int rank, int size) {
  require(0 <= rank && rank < size, "a dry run as rank {} of {}: ranks go from 0 to {}", rank, size,
          size - 1);
  if (size == 1) return make_self_communicator("world");
  return std::make_unique<DryRunCommunicator>(rank, size, "world");
}

}  // namespace neox
