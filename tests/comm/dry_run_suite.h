#pragma once
// A dry run beside the real group of the program that includes this: groups and traffic must agree.

#include <gtest/gtest.h>

#include "comm/dry_run_communicator.h"
#include "comm/mpi.h"
#include "comm/topology.h"
#include "core/tensor/buffer.h"

namespace neox {

/// One of everything, with sizes that depend on the group and the rank only. Without memory when
/// `real` is false.
inline void talk(Communicator& group, bool real, Stream& stream) {
  const int n = group.size();
  const OwnedTensor memory({real ? 64 * n : 0}, DType::f32);
  const auto tensor = [&](std::int64_t elements, DType dtype) {
    return Tensor(real ? memory.tensor.data : nullptr, Shape{elements}, dtype, Device{});
  };
  const Tensor whole = tensor(8 * n, DType::bf16), part = tensor(8, DType::bf16);
  {
    const TrafficScope scope(group, Purpose::gradients);
    group.reduce_scatter(whole, part, ReduceOp::sum, stream).wait(stream);
    const TrafficScope inner(group, Purpose::norm);
    group.all_reduce(tensor(3, DType::f32), ReduceOp::max, stream).wait(stream);
  }
  group.all_reduce(tensor(5, DType::f32), ReduceOp::sum, stream).wait(stream);
  {
    const TrafficScope scope(group, Purpose::parameters);
    group.all_gather(part, whole, stream).wait(stream);
    group.broadcast(whole, n - 1, stream).wait(stream);
  }
  const OwnedTensor other({8 * n}, DType::f32);
  group
      .all_to_all(tensor(4 * n, DType::f32),
                  Tensor(real ? other.tensor.data : nullptr, Shape{4 * n}, DType::f32, Device{}),
                  stream)
      .wait(stream);
  if (n > 1) {
    const TrafficScope scope(group, Purpose::pipeline);
    const int next = (group.rank() + 1) % n, before = (group.rank() + n - 1) % n;
    const Work sent = group.send(part, next, stream);
    group
        .recv(Tensor(real ? other.tensor.data : nullptr, Shape{8}, DType::bf16, Device{}), before,
              stream)
        .wait(stream);
    sent.wait(stream);
  }
  const TrafficScope scope(group, Purpose::loss);  // the control plane counts as control
  std::vector<double> values(3, 1.0);
  group.host_all_reduce(std::span(values), ReduceOp::max);
  std::uint64_t one = 1;
  group.host_all_reduce(std::span(&one, 1), ReduceOp::max);
  group.host_broadcast("text", 0);
  group.host_all_gather("own");
  group.barrier();
}

TEST(DryRun, CountsWhatARealGroupCountsInEveryGroupOfTheTopology) {
  const auto world = make_world_communicator();
  const auto stream = make_stream(Device{});
  const auto dry_world = make_dry_run_communicator(world->rank(), world->size());
  std::vector<ParallelLayout> layouts = {{.data = world->size()}, {.pipe = world->size()}};
  if (world->size() == 4) layouts.push_back({.tensor = 2, .pipe = 2});
  if (world->size() == 4) layouts.push_back({.context = 2, .data = 2});
  for (const ParallelLayout& layout : layouts) {
    const auto hosts = gather_hosts(*world, "here");
    const Topology real(*world, layout, hosts), dry(*dry_world, layout, hosts);
    const auto real_groups = real.groups(), dry_groups = dry.groups();
    ASSERT_EQ(real_groups.size(), dry_groups.size());
    std::int64_t calls = 0;
    for (std::size_t i = 1; i < real_groups.size(); ++i) {  // the world serves all layouts
      Communicator& a = *real_groups[i];
      Communicator& b = *dry_groups[i];
      EXPECT_EQ(a.name(), b.name());
      EXPECT_EQ(a.rank(), b.rank()) << a.name();
      EXPECT_EQ(a.size(), b.size()) << a.name();
      talk(a, true, *stream);
      talk(b, false, *stream);
      EXPECT_TRUE(a.traffic() == b.traffic()) << a.name() << " counts differ in a dry run";
      EXPECT_EQ(a.traffic(Purpose::gradients, Collective::reduce_scatter),
                (Traffic{1, 16 * a.size()}));
      EXPECT_EQ(a.traffic(Purpose::norm), (Traffic{1, 12}));
      EXPECT_EQ(a.traffic(Purpose::other, Collective::all_reduce), (Traffic{1, 20}));
      EXPECT_EQ(a.traffic(Purpose::loss), Traffic{});
      EXPECT_EQ(a.traffic(Purpose::control), (Traffic{5, 24 + 8 + 4 + 3}));
      calls += a.traffic(Collective::all_reduce).calls;
    }
    EXPECT_GT(calls, 0);
  }
}

}  // namespace neox
