#include <gmock/gmock.h>

#include "tests/comm/dry_run_suite.h"

namespace neox {
namespace {

TEST(DryRun, InventsNothing) {
  const auto group = make_dry_run_communicator(3, 1000);
  double value = 2.5;
  group->host_all_reduce(std::span(&value, 1), ReduceOp::sum);
  EXPECT_EQ(value, 2.5);
  EXPECT_EQ(group->host_broadcast("mine", 0), "mine");
  EXPECT_EQ(group->host_all_gather("mine"), std::vector<std::string>(1000, "mine"));
  const auto stream = make_stream(Device{});
  OwnedTensor x({4}, DType::f32);
  for (float& v : x.tensor.span<float>()) v = 7.0f;
  group->all_reduce(x, ReduceOp::sum, *stream).wait(*stream);
  group->recv(x, 2, *stream).wait(*stream);
  for (const float v : x.tensor.span<float>()) EXPECT_EQ(v, 7.0f);
}

TEST(DryRun, ChecksArgumentsAsARealGroupDoes) {
  const auto group = make_dry_run_communicator(1, 4);
  const auto stream = make_stream(Device{});
  const Tensor a(nullptr, Shape{25}, DType::f32, Device{}), b(nullptr, Shape{6}, DType::f32, {});
  EXPECT_THROW(group->reduce_scatter(a, b, ReduceOp::sum, *stream), Error);
  EXPECT_THROW(group->all_gather(b, a, *stream), Error);
  EXPECT_THROW(group->all_to_all(a, a, *stream), Error);
  EXPECT_THROW(group->broadcast(a, 4, *stream), Error);
  EXPECT_THROW(group->send(a, 1, *stream), Error);
  EXPECT_THROW(group->recv(a, -1, *stream), Error);
  EXPECT_THROW(group->all_reduce(Tensor{}, ReduceOp::sum, *stream), Error);
  EXPECT_THROW(make_dry_run_communicator(4, 4), Error);
}

TEST(TrafficTable, ShowsWhatWasUsedPerStep) {
  const auto group = make_dry_run_communicator(0, 4);
  const auto stream = make_stream(Device{});
  const Tensor whole(nullptr, Shape{1024}, DType::f32, {}),
      part(nullptr, Shape{256}, DType::f32, {});
  for (int step = 0; step < 2; ++step) {
    const TrafficScope scope(*group, Purpose::gradients);
    group->reduce_scatter(whole, part, ReduceOp::sum, *stream);
    group->all_gather(part, whole, *stream);
  }
  const TrafficCounts before = group->traffic();
  group->all_reduce(whole, ReduceOp::sum, *stream);
  TrafficCounts last = group->traffic();
  last -= before;
  EXPECT_EQ(last.at(Purpose::other, Collective::all_reduce), (Traffic{1, 4096}));
  EXPECT_EQ(last.total(Purpose::gradients), Traffic{});
  const std::vector<GroupTraffic> rows = {{"data", 4, group->traffic()}, {"self", 1, before}};
  EXPECT_EQ(traffic_table(rows, 2),
            "  group (ranks)  purpose    operation       calls   payload      sent\n"
            "  data (4)       other      all_reduce       0.50  2.00 KiB  3.00 KiB\n"
            "                 gradients  reduce_scatter      1  4.00 KiB  3.00 KiB\n"
            "                 gradients  all_gather          1  1.00 KiB  3.00 KiB\n");
  EXPECT_EQ(traffic_table(std::span(rows).subspan(1)), "no communication\n");
  EXPECT_THROW(traffic_table(rows, 0), Error);
}

}  // namespace
}  // namespace neox
