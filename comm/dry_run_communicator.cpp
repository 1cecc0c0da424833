#include <algorithm>

#include "comm/communicator.h"

namespace neox {
namespace {

class DryRunCommunicator final : public Communicator {
 public:
  DryRunCommunicator(int rank, int size) : rank_(rank), size_(size) {
    require(0 <= rank && rank < size, "a dry run as rank {} of {}: there is no such rank", rank,
            size);
  }
  int rank() const override { return rank_; }
  int size() const override { return size_; }
  std::unique_ptr<Communicator> split(int, int) override {
    fail("internal error: split() in a dry run, where the other ranks' colors are not known");
  }
  std::unique_ptr<Communicator> subgroup(const std::vector<int>& members) override {
    const auto me = std::find(members.begin(), members.end(), rank_);
    require(me != members.end(), "subgroup: rank {} is not among the members of its group", rank_);
    if (members.size() == 1) return make_self_communicator();
    return std::make_unique<DryRunCommunicator>(static_cast<int>(me - members.begin()),
                                                static_cast<int>(members.size()));
  }

  Work all_reduce(Tensor inout, ReduceOp op, Stream&) override {
    check_all_reduce(inout, op);
    return done(Collective::all_reduce, inout.bytes());
  }
  Work reduce_scatter(ConstTensor in, Tensor out, ReduceOp op, Stream&) override {
    check_reduce_scatter(in, out, op);
    return done(Collective::reduce_scatter, in.bytes());
  }
  Work all_gather(ConstTensor in, Tensor out, Stream&) override {
    check_all_gather(in, out);
    return done(Collective::all_gather, out.bytes());
  }
  Work all_to_all(ConstTensor in, Tensor out, Stream&) override {
    check_all_to_all(in, out);
    return done(Collective::all_to_all, in.bytes());
  }
  Work broadcast(Tensor inout, int root, Stream&) override {
    check_peer("broadcast", root);
    return done(Collective::broadcast, inout.bytes());
  }
  Work send(ConstTensor tensor, int to, Stream&) override {
    check_peer("send", to);
    return done(Collective::send, tensor.bytes());
  }
  Work recv(Tensor tensor, int from, Stream&) override {
    check_peer("recv", from);
    return done(Collective::recv, tensor.bytes());
  }

  void barrier() override { count(Collective::barrier, 0); }
  void host_all_reduce(std::span<double> v, ReduceOp) override { host(v.size_bytes()); }
  void host_all_reduce(std::span<std::int64_t> v, ReduceOp) override { host(v.size_bytes()); }
  void host_all_reduce(std::span<std::uint64_t> v, ReduceOp) override { host(v.size_bytes()); }
  std::string host_broadcast(std::string text, int root) override {
    check_peer("host_broadcast", root);
    host(text.size());
    return text;
  }
  std::vector<std::string> host_all_gather(const std::string& text) override {
    host(text.size());
    return std::vector<std::string>(static_cast<std::size_t>(size_), text);
  }

 protected:
  void wait(std::uint64_t, Stream&) override {}

 private:
  Work done(Collective collective, std::size_t bytes) {
    count(collective, bytes);
    return {};
  }
  void host(std::size_t bytes) { count(Collective::host, bytes); }

  int rank_, size_;
};

}  // namespace

std::unique_ptr<Communicator> make_dry_run_communicator(int rank, int size) {
  return std::make_unique<DryRunCommunicator>(rank, size);
}

}  // namespace neox
