#include "core/train/preflight_probe.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>

#include "comm/activity.h"
#include "core/tensor/buffer.h"
#include "core/train/median.h"

namespace neox {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kRounds = 5;
constexpr double kRoundSeconds = 0.02;
constexpr int kMessages = 3;  // timed in each round between two nodes
constexpr int kPings = 8;

double since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Large enough to keep a device busy, small beside its memory.
struct Sizes {
  std::int64_t product = 512;                    // rows, columns, inner
  std::int64_t copy = std::int64_t{32} << 20;    // bytes
  std::int64_t message = std::int64_t{1} << 20;  // bytes
};

Sizes sizes_for(DeviceKind kind) {
  if (kind == DeviceKind::cuda) return {8192, std::int64_t{512} << 20, std::int64_t{64} << 20};
  if (kind == DeviceKind::simulated) return {64, std::int64_t{1} << 20, std::int64_t{1} << 20};
  return {};
}

// Median over rounds of the seconds that a call takes. A round ends by the clock, so that one that
// is disturbed is as long as the others.
template <class F>
double median_seconds(Stream& stream, F&& call) {
  call();  // plans, packed weights, first touch
  stream.synchronize();
  std::vector<double> rounds;
  for (int round = 0; round < kRounds; ++round) {
    const auto start = Clock::now();
    double elapsed = 0.0;
    int calls = 0;
    for (; elapsed < kRoundSeconds; ++calls) {
      call();
      stream.synchronize();
      elapsed = since(start);
    }
    rounds.push_back(elapsed / calls);
    Activity::tick();
  }
  return median(std::move(rounds));
}

// Median seconds of an operation that every rank of the group runs.
template <class F>
double group_seconds(Communicator& group, Stream& stream, F&& operation) {
  operation();  // connections are made
  stream.synchronize();
  std::vector<double> rounds;
  for (int round = 0; round < kRounds; ++round) {
    group.barrier();
    const auto start = Clock::now();
    operation();
    stream.synchronize();
    rounds.push_back(since(start));
  }
  return median(std::move(rounds));
}

void set_speed(RankFacts& facts, Speed which, double speed, std::vector<int> group = {}) {
  const std::string key(info_of(which).key);
  facts.speeds[key] = speed;
  if (!group.empty()) facts.groups[key] = std::move(group);
}

// The ranks whose coordinates `together` accepts.
template <class F>
std::vector<int> members(const ParallelLayout& layout, F&& together) {
  std::vector<int> ranks;
  for (int rank = 0; rank < layout.world(); ++rank) {
    if (together(coordinates_of(rank, layout))) ranks.push_back(rank);
  }
  return ranks;
}

void measure_all_reduce(RankFacts& facts, Speed which, Communicator& group, Tensor tensor,
                        Stream& stream, std::vector<int> ranks) {
  if (group.size() < 2) return;
  const double seconds = group_seconds(
      group, stream, [&] { group.all_reduce(tensor, ReduceOp::sum, stream).wait(stream); });
  const Traffic traffic{1, static_cast<std::int64_t>(tensor.bytes())};
  set_speed(facts, which,
            1e-9 * link_bytes(Collective::all_reduce, traffic, group.size()) / seconds,
            std::move(ranks));
}

// Every stage sends to the next, all at once.
void measure_pipe(RankFacts& facts, Communicator& pipe, Tensor out, Tensor in, Stream& stream,
                  std::vector<int> ranks) {
  if (pipe.size() < 2) return;
  const int stage = pipe.rank();
  const double seconds = group_seconds(pipe, stream, [&] {
    Work sent, received;
    if (stage + 1 < pipe.size()) sent = pipe.send(out, stage + 1, stream);
    if (stage > 0) received = pipe.recv(in, stage - 1, stream);
    sent.wait(stream);
    received.wait(stream);
  });
  set_speed(facts, Speed::pipe, 1e-9 * static_cast<double>(out.bytes()) / seconds,
            std::move(ranks));
}

// Median seconds of sending to a peer and receiving from it at once.
double exchange_seconds(Communicator& world, int peer, Tensor out, Tensor in, Stream& stream) {
  std::vector<double> seconds;
  for (int i = -1; i < kMessages; ++i) {  // the first connects
    const auto start = Clock::now();
    const Work sent = world.send(out, peer, stream);
    const Work received = world.recv(in, peer, stream);
    sent.wait(stream);
    received.wait(stream);
    stream.synchronize();
    if (i >= 0) seconds.push_back(since(start));
  }
  return median(std::move(seconds));
}

// A slow node is slow with both neighbours, its neighbours with one of theirs: the better counts.
void measure_pairs(RankFacts& facts, const Topology& topology, Tensor out, Tensor in,
                   Stream& stream) {
  Communicator& world = topology.world();
  double best = 0.0;
  for (const std::vector<int>& peers : node_pairs(topology.hosts())) {
    const int peer = peers[static_cast<std::size_t>(world.rank())];
    std::vector<double> seconds(peers.size(), 0.0);  // of every rank
    world.barrier();
    if (peer >= 0) {
      seconds[static_cast<std::size_t>(world.rank())] =
          exchange_seconds(world, peer, out, in, stream);
    }
    world.host_all_reduce(std::span<double>(seconds), ReduceOp::sum);
    if (peer < 0) continue;
    // Both ends saw the same exchange: they have the same speed.
    const double longer = std::max(seconds[static_cast<std::size_t>(world.rank())],
                                   seconds[static_cast<std::size_t>(peer)]);
    best = std::max(best, 1e-9 * static_cast<double>(out.bytes()) / longer);
  }
  if (best > 0.0) set_speed(facts, Speed::network, best);
}

}  // namespace

void measure_device(RankFacts& facts, Device device, DType dtype) {
  const Sizes sizes = sizes_for(device.kind);
  const auto ops = make_backend(device);
  const auto stream = make_stream(device);
  DeviceRuntime& runtime = device_runtime(device.kind);
  const auto zeros = [&](Shape shape, DType type) {
    OwnedTensor tensor(shape, type, device);
    runtime.fill_zero(tensor.tensor.data, tensor.tensor.bytes(), *stream);
    return tensor;
  };
  {
    const std::int64_t n = sizes.product;
    const OwnedTensor x = zeros({n, n}, dtype), w = zeros({n, n}, dtype), y = zeros({n, n}, dtype);
    const double seconds =
        median_seconds(*stream, [&] { ops->linear(*stream, x, w, ConstTensor(), y); });
    ops->weights_changed();
    set_speed(facts, Speed::product, 2e-12 * std::pow(static_cast<double>(n), 3) / seconds);
  }
  const OwnedTensor from = zeros({sizes.copy}, DType::u8), to = zeros({sizes.copy}, DType::u8);
  const double seconds = median_seconds(*stream, [&] { copy(*stream, from, to); });
  set_speed(facts, Speed::memory, 2e-9 * static_cast<double>(sizes.copy) / seconds);
}

void measure_network(RankFacts& facts, const Topology& topology, Device device) {
  const auto stream = make_stream(device);
  const Shape shape({sizes_for(device.kind).message / 4});
  OwnedTensor out(shape, DType::f32, device), in(shape, DType::f32, device);
  for (const OwnedTensor* tensor : {&out, &in}) {
    device_runtime(device.kind).fill_zero(tensor->tensor.data, tensor->tensor.bytes(), *stream);
  }
  const ParallelLayout& layout = topology.layout();
  const Coordinates here = topology.coordinates();
  measure_all_reduce(facts, Speed::tensor, topology.tensor(), out, *stream,
                     members(layout, [&](Coordinates at) {
                       at.tensor = here.tensor;
                       return at == here;
                     }));
  measure_all_reduce(facts, Speed::data, topology.data(), out, *stream,
                     members(layout, [&](Coordinates at) {
                       at.data = here.data;
                       return at == here;
                     }));
  measure_pipe(facts, topology.pipe_forward(), out, in, *stream,
               members(layout, [&](Coordinates at) {
                 at.pipe = here.pipe;
                 return at == here;
               }));
  measure_all_reduce(facts, Speed::world, topology.world(), out, *stream,
                     members(layout, [](const Coordinates&) { return true; }));
  measure_pairs(facts, topology, out, in, *stream);
}

std::vector<std::vector<int>> node_pairs(std::span<const std::string> hosts) {
  std::vector<std::string> names;
  std::vector<std::vector<int>> nodes;  // their ranks
  for (std::size_t rank = 0; rank < hosts.size(); ++rank) {
    const auto found = std::find(names.begin(), names.end(), hosts[rank]);
    const auto node = static_cast<std::size_t>(found - names.begin());
    if (found == names.end()) {
      names.push_back(hosts[rank]);
      nodes.emplace_back();
    }
    nodes[node].push_back(static_cast<int>(rank));
  }
  const std::size_t n = nodes.size();
  std::vector<std::vector<int>> rounds;
  const auto pair_up = [&](std::vector<int>& peers, std::size_t a, std::size_t b) {
    for (std::size_t i = 0; i < std::min(nodes[a].size(), nodes[b].size()); ++i) {
      peers[static_cast<std::size_t>(nodes[a][i])] = nodes[b][i];
      peers[static_cast<std::size_t>(nodes[b][i])] = nodes[a][i];
    }
  };
  const auto round = [&](std::size_t first, std::size_t last) {
    std::vector<int>& peers = rounds.emplace_back(hosts.size(), -1);
    for (std::size_t node = first; node + 1 <= last; node += 2)
      pair_up(peers, node, (node + 1) % n);
  };
  if (n < 2) return rounds;
  round(0, n - 1);                              // 0-1, 2-3, ...
  if (n > 2) round(1, n % 2 == 0 ? n : n - 1);  // 1-2, 3-4, ..., and the last with the first
  if (n > 2 && n % 2 != 0) round(n - 1, n);     // which an odd number leaves over
  return rounds;
}

void measure_clock(RankFacts& facts, Communicator& world) {
  const auto stream = make_stream(Device{});
  const auto seconds_now = [] {
    return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch())
        .count();
  };
  OwnedTensor value({1}, DType::f64);
  auto* const number = reinterpret_cast<double*>(value.tensor.data);
  std::vector<double> leaders(static_cast<std::size_t>(world.size()), 0.0);
  leaders[static_cast<std::size_t>(world.rank())] = facts.leads_node ? 1.0 : 0.0;
  world.host_all_reduce(std::span<double>(leaders), ReduceOp::sum);
  std::vector<double> offsets(leaders.size(), 0.0);
  if (world.rank() == 0) {
    for (int rank = 1; rank < world.size(); ++rank) {
      if (leaders[static_cast<std::size_t>(rank)] == 0.0) continue;
      double least = 1e9;
      for (int i = 0; i < kPings; ++i) {
        const double before = seconds_now();
        world.send(value, rank, *stream).wait(*stream);
        world.recv(value, rank, *stream).wait(*stream);
        const double after = seconds_now();
        if (after - before >= least) continue;
        least = after - before;
        offsets[static_cast<std::size_t>(rank)] = *number - 0.5 * (before + after);
      }
    }
  } else if (facts.leads_node) {
    for (int i = 0; i < kPings; ++i) {
      world.recv(value, 0, *stream).wait(*stream);
      *number = seconds_now();
      world.send(value, 0, *stream).wait(*stream);
    }
  }
  world.host_all_reduce(std::span<double>(offsets), ReduceOp::sum);
  facts.has_clock = facts.leads_node;
  facts.clock_offset = offsets[static_cast<std::size_t>(world.rank())];
}

}  // namespace neox
