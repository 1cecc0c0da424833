#include "tests/train/altered_communicator.h"

#include "core/base/error.h"

namespace neox::testing {
namespace {

class AlteredCommunicator final : public Communicator {
 public:
  AlteredCommunicator(Communicator& inner, CallRecord& record) : inner_(inner), record_(record) {
    set_name(inner.name());
  }
  AlteredCommunicator(std::unique_ptr<Communicator> inner, CallRecord& record, int instance)
      : AlteredCommunicator(*inner, record) {
    owned_ = std::move(inner);
    instance_ = instance;
  }

  int rank() const override { return inner_.rank(); }
  int size() const override { return inner_.size(); }
  std::unique_ptr<Communicator> split(const SplitRule& rule, const std::string& name) override {
    auto group = inner_.split(rule, name);
    group->set_name(name);
    return std::make_unique<AlteredCommunicator>(std::move(group), record_,
                                                 instance_ * size() + rule(rank()).color);
  }

  Work all_reduce(Tensor inout, ReduceOp op, Stream& stream) override {
    if (omits(Collective::all_reduce, inout.bytes())) return {};
    return inner_.all_reduce(inout, op, stream);
  }
  Work reduce_scatter(ConstTensor in, Tensor out, ReduceOp op, Stream& stream) override {
    if (!omits(Collective::reduce_scatter, in.bytes())) {
      return inner_.reduce_scatter(in, out, op, stream);
    }
    copy_if_apart(stream, part(in, out.numel()), out);
    return {};
  }
  Work all_gather(ConstTensor in, Tensor out, Stream& stream) override {
    if (!omits(Collective::all_gather, in.bytes())) return inner_.all_gather(in, out, stream);
    const std::int64_t n = in.numel();
    copy_if_apart(stream, in.reshape({n}),
                  out.reshape({out.numel()}).slice(rank() * n, (rank() + 1) * n));
    return {};
  }
  Work all_to_all(ConstTensor in, Tensor out, Stream& stream) override {
    if (!omits(Collective::all_to_all, in.bytes())) return inner_.all_to_all(in, out, stream);
    copy_if_apart(stream, in, out);
    return {};
  }
  Work broadcast(Tensor inout, int root, Stream& stream) override {
    if (omits(Collective::broadcast, inout.bytes())) return {};
    return inner_.broadcast(inout, root, stream);
  }
  Work send(ConstTensor tensor, int to, Stream& stream) override {
    if (omits(Collective::send, tensor.bytes(), to)) return {};
    return inner_.send(tensor, to, stream);
  }
  Work recv(Tensor tensor, int from, Stream& stream) override {
    // Counted apart from what is sent to the same peer, but left out together with its send.
    if (!omits(Collective::recv, tensor.bytes(), from)) return inner_.recv(tensor, from, stream);
    fill_zero(stream, tensor);
    return {};
  }

  void barrier() override { inner_.barrier(); }
  void host_all_reduce(std::span<double> values, ReduceOp op) override {
    inner_.host_all_reduce(values, op);
  }
  void host_all_reduce(std::span<std::int64_t> values, ReduceOp op) override {
    inner_.host_all_reduce(values, op);
  }
  void host_all_reduce(std::span<std::uint64_t> values, ReduceOp op) override {
    inner_.host_all_reduce(values, op);
  }
  std::string host_broadcast(std::string text, int root) override {
    return inner_.host_broadcast(std::move(text), root);
  }
  std::vector<std::string> host_all_gather(const std::string& text) override {
    return inner_.host_all_gather(text);
  }
  void* native() const override { return inner_.native(); }

 protected:
  void wait(std::uint64_t, Stream&) override {}  // works belong to inner_

 private:
  // Part rank() of size() of `in`.
  ConstTensor part(ConstTensor in, std::int64_t n) const {
    return in.reshape({in.numel()}).slice(rank() * n, (rank() + 1) * n);
  }
  static void copy_if_apart(Stream& stream, ConstTensor in, Tensor out) {
    if (in.data != out.data) copy(stream, in, out.reshape({out.numel()}));
  }

  bool omits(Collective collective, std::size_t bytes, int peer = -1) {
    if (size() == 1) return false;
    const Purpose purpose = set_purpose(Purpose::other);
    set_purpose(purpose);
    const CallSeries series{{name(), purpose, collective}, instance_, peer};
    SeriesTraffic& traffic = record_.series[series];
    const std::int64_t number = traffic.calls++;
    const Traffic call{1, static_cast<std::int64_t>(bytes)};
    traffic.payload += call.bytes;
    traffic.link_bytes += link_bytes(collective, call, size());
    if (!record_.omission) return false;
    CallKind kind = series.kind;
    if (kind.collective == Collective::recv) kind.collective = Collective::send;
    const auto& [omitted, calls] = *record_.omission;
    if (kind != omitted) return false;
    if (!calls.empty()) {
      const auto at = calls.find(series);
      if (at == calls.end() || at->second != number) return false;
    }
    ++record_.omitted;
    return true;
  }

  Communicator& inner_;
  std::unique_ptr<Communicator> owned_;
  CallRecord& record_;
  int instance_ = 0;
};

}  // namespace

std::string CallKind::describe() const {
  return fmt::format("{} for {} in group {}", neox::name_of(collective), neox::name_of(purpose),
                     group);
}

std::unique_ptr<Communicator> alter(Communicator& world, CallRecord& record) {
  return std::make_unique<AlteredCommunicator>(world, record);
}

}  // namespace neox::testing
