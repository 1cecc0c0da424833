#include <atomic>
#include <thread>

#include "comm/activity_slot.h"
#include "tests/comm/communicator_suite.h"
#include "tests/comm/heap_count.h"

namespace neox {
namespace {

TEST_P(CommunicatorTest, SteadyStateAllocatesNothing) {
  const OwnedTensor sum = make({300000}, DType::bf16), part = make({100}, DType::f32),
                    whole = make({200}, DType::f32);
  fill(sum, rank);
  fill(part, rank);
  const auto step = [&] {
    std::array<Work, 3> works = {
        group().all_reduce(sum, ReduceOp::max, stream()), group().all_gather(part, whole, stream()),
        rank == 0 ? group().send(part, 1, stream()) : group().recv(part, 0, stream())};
    for (const Work& work : works) work.wait(stream());
    group().reduce_scatter(whole, part, ReduceOp::max, stream()).wait(stream());
  };
  step();
  const std::int64_t allocations = allocation_counts().calls;
  for (int i = 0; i < 4; ++i) step();
  const std::int64_t heap = heap_calls();
  for (int i = 0; i < 50; ++i) step();
  stream().synchronize();
  EXPECT_EQ(allocation_counts().calls, allocations);
  if (device.is_cpu()) {
    EXPECT_EQ(heap_calls(), heap);
  }  // the deferred device queues on the heap
}

class StagedTest : public ::testing::Test {
 protected:
  void SetUp() override {
    use_deferred_runtime(DeferredOrder::lazy);
    group_ = make_world_communicator();
    stream_ = make_stream(kSimulated);
  }
  std::unique_ptr<Communicator> group_;
  std::unique_ptr<Stream> stream_;
};

// The device is busy until `open`; calls return all the same, and whoever waits says for what.
TEST_F(StagedTest, CallsReturnWhileTheDeviceIsBusy) {
  ActivitySlot slot;
  redirect_activity(&slot);
  std::atomic<bool> open{false};
  enqueue_deferred(stream_->native(), [&] { return open.load(); });
  const OwnedTensor a({1000}, DType::f32, kSimulated), b({1000}, DType::f32, kSimulated);
  const std::vector<float> ones(1000, 1.0f);
  copy(*stream_, host_view(ones), a);
  const Work reduced = group_->all_reduce(a, ReduceOp::sum, *stream_);
  const Work moved =
      group_->rank() == 0 ? group_->send(a, 1, *stream_) : group_->recv(b, 0, *stream_);
  EXPECT_EQ(slot.waits_in, -1);
  bool seen = false;
  std::thread device([&] {
    for (int i = 0; i < 2000 && !seen; ++i) {
      seen = slot.on_device == 1 && slot.waits_in == static_cast<int>(Collective::all_reduce);
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    open = true;
  });
  reduced.wait(*stream_);
  device.join();
  moved.wait(*stream_);
  EXPECT_TRUE(seen);
  EXPECT_EQ(slot.on_device, 0);
  EXPECT_EQ(slot.waits_in, -1);
  redirect_activity(nullptr);
  std::vector<float> result(1000);
  copy(*stream_, group_->rank() == 0 ? a : b,
       Tensor(reinterpret_cast<std::byte*>(result.data()), {1000}, DType::f32, Device{}));
  stream_->synchronize();
  EXPECT_THAT(result, ::testing::Each(2.0f));
}

// Host memory that a device's stream writes is communicated after that.
TEST_F(StagedTest, HostTensorsWaitForTheStream) {
  const OwnedTensor on_device({5}, DType::f64, kSimulated);
  const Buffer memory = Buffer::pinned(5 * sizeof(double), kSimulated);
  const Tensor on_host = memory.view({5}, DType::f64);
  const std::vector<double> values(5, group_->rank() + 1.0);
  copy(*stream_, host_view(values), on_device);
  copy(*stream_, on_device, on_host);
  group_->all_reduce(on_host, ReduceOp::sum, *stream_).wait(*stream_);
  EXPECT_THAT(on_host.span<double>(), ::testing::Each(3.0));
}

TEST_F(StagedTest, DevicesAndStreamsMustFit) {
  const OwnedTensor on_device({4}, DType::f32, kSimulated), on_host({4}, DType::f32),
      other({4}, DType::f32, {DeviceKind::simulated, 1}), whole({8}, DType::f32);
  const auto host_stream = make_stream(Device{}), other_stream = make_stream(other.tensor.device);
  EXPECT_THROW(group_->all_reduce(on_device, ReduceOp::sum, *host_stream), Error);
  EXPECT_THROW(group_->all_gather(on_device, whole, *stream_), Error);
  group_->all_reduce(on_device, ReduceOp::sum, *stream_).wait(*stream_);
  EXPECT_THROW(group_->all_reduce(other, ReduceOp::sum, *other_stream), Error);
  EXPECT_THROW(group_->send(Tensor{}, 1 - group_->rank(), *stream_), Error);
  group_->all_reduce(on_host, ReduceOp::sum, *host_stream).wait(*host_stream);
}

// The next operation may use the memory on the way that the last one's result has not left yet, and
// nothing on its stream says so.
TEST_F(StagedTest, SlotsAreReusedAcrossStreams) {
  constexpr std::int64_t n = 1000;
  const auto second = make_stream(kSimulated);
  const OwnedTensor a({n}, DType::f32, kSimulated), b({n}, DType::f32, kSimulated);
  const auto fill = [&](Stream& stream, const Tensor& tensor, float value) {
    copy(stream, host_view(std::vector<float>(n, value)), tensor);
  };
  const auto expect = [&](Stream& stream, ConstTensor tensor, float value) {
    std::vector<float> values(n);
    copy(stream, tensor,
         Tensor(reinterpret_cast<std::byte*>(values.data()), {n}, DType::f32, Device{}));
    stream.synchronize();
    EXPECT_THAT(values, ::testing::Each(value));
  };
  fill(*stream_, a, 1.0f);
  fill(*second, b, 5.0f);
  group_->all_reduce(a, ReduceOp::sum, *stream_).wait(*stream_);
  group_->all_reduce(b, ReduceOp::sum, *second).wait(*second);
  expect(*second, b, 10.0f);
  expect(*stream_, a, 2.0f);
  if (group_->rank() == 0) {
    fill(*stream_, a, 7.0f);
    fill(*stream_, b, 8.0f);
    group_->send(a, 1, *stream_).wait(*stream_);
    group_->send(b, 1, *stream_).wait(*stream_);
    return;
  }
  group_->recv(a, 0, *stream_).wait(*stream_);
  group_->recv(b, 0, *second).wait(*second);
  expect(*second, b, 8.0f);
  expect(*stream_, a, 7.0f);
}

// Sums of data where rounding shows: the same bits as on the host.
TEST_F(StagedTest, SameBitsAsOnTheHost) {
  constexpr std::int64_t n = 100003;
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const OwnedTensor on_device({n}, dtype, kSimulated), on_host({n}, dtype);
    visit_float(dtype, [&](auto zero) {
      using T = decltype(zero);
      const auto values = on_host.tensor.span<T>();
      for (std::size_t i = 0; i < values.size(); ++i) {
        values[i] =
            T(std::sin(static_cast<float>(i) * (static_cast<float>(group_->rank()) + 1.3f)));
      }
    });
    copy(*stream_, on_host, on_device);
    const auto host_stream = make_stream(Device{});
    group_->all_reduce(on_device, ReduceOp::sum, *stream_).wait(*stream_);
    group_->all_reduce(on_host, ReduceOp::sum, *host_stream).wait(*host_stream);
    const OwnedTensor back({n}, dtype);
    copy(*stream_, on_device, back);
    stream_->synchronize();
    EXPECT_EQ(std::memcmp(back.tensor.data, on_host.tensor.data, back.tensor.bytes()), 0);
  }
}

}  // namespace
}  // namespace neox
