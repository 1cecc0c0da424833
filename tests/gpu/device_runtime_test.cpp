#include "kernels/cuda/device_runtime.h"

#include <cstring>
#include <functional>
#include <vector>

#include "core/tensor/buffer.h"
#include "core/tensor/device_tools.h"
#include "kernels/cuda/internal.h"
#include "tests/gpu/gpu_support.h"

namespace neox::testing {
namespace {

std::string message_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

bool has(const std::string& text, std::string_view part) {
  return text.find(part) != std::string::npos;
}

// ---- everywhere ------------------------------------------------------------------------------

TEST(CudaCheck, NamesTheCallTheCodeAndThePlace) {
  EXPECT_NO_THROW(cuda_check(cudaSuccess, "cudaMalloc"));
  try {
    cuda_check(cudaErrorInvalidValue, "cudaMemcpyAsync");
    FAIL() << "no exception";
  } catch (const Error& error) {
    const std::string text = error.what();
    EXPECT_TRUE(has(text, "cudaMemcpyAsync")) << text;
    EXPECT_TRUE(has(text, "cudaErrorInvalidValue (1): invalid argument")) << text;
    EXPECT_TRUE(has(error.where().file_name(), "device_runtime_test.cpp"));
  }
}

TEST(CudaStream, RefusesStreamsOfTheCpu) {
  const auto stream = make_stream(Device{});
  EXPECT_TRUE(has(message_of([&] { cuda_stream(*stream); }), "a stream of cpu"));
}

TEST(CudaRuntime, SaysInOneLineWhyThereIsNoDevice) {
  const std::string& reason = no_gpu_reason();
  if (reason.empty()) GTEST_SKIP() << "there is a usable device";
  EXPECT_FALSE(has(reason, "\n")) << reason;
  const std::string refusal = message_of([] { make_backend(kGpu); });
  EXPECT_TRUE(has(refusal, reason)) << refusal;
  EXPECT_NE(message_of([] { make_stream(kGpu); }), "");
}

// ---- on a GPU --------------------------------------------------------------------------------

class CudaRuntimeOn : public OnGpu {};

std::vector<std::byte> pattern(std::size_t n, unsigned first) {
  std::vector<std::byte> bytes(n);
  for (std::size_t i = 0; i < n; ++i) bytes[i] = static_cast<std::byte>((first + i * 7) % 251);
  return bytes;
}
Tensor view(std::vector<std::byte>& bytes) {
  return {bytes.data(), {static_cast<std::int64_t>(bytes.size())}, DType::u8, Device{}};
}

TEST_F(CudaRuntimeOn, CopiesRoundTrip) {
  const auto stream = make_stream(kGpu);
  for (const std::size_t n : {1u, 255u, 4097u, 3000001u}) {
    auto sent = pattern(n, 3);
    std::vector<std::byte> received(n);
    const Shape shape{static_cast<std::int64_t>(n)};
    const OwnedTensor first(shape, DType::u8, kGpu), second(shape, DType::u8, kGpu);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(first.tensor.data) % 256, 0u);
    copy(*stream, view(sent), first);
    copy(*stream, first, second);
    copy(*stream, second, view(received));
    stream->synchronize();
    EXPECT_EQ(received, sent);
    fill_zero(*stream, second);
    copy(*stream, second, view(received));
    stream->synchronize();
    EXPECT_EQ(received, std::vector<std::byte>(n));
  }
}

TEST_F(CudaRuntimeOn, CountsItsAllocations) {
  const AllocationCounts before = allocation_counts();
  {
    const Buffer buffer(12345, kGpu);
    EXPECT_EQ(allocation_counts().calls, before.calls + 1);
    EXPECT_EQ(allocation_counts().bytes_live, before.bytes_live + 12345);
  }
  EXPECT_EQ(allocation_counts().bytes_live, before.bytes_live);
}

TEST_F(CudaRuntimeOn, CopiesThroughPinnedMemory) {
  const auto stream = make_stream(kGpu, StreamPriority::high);
  constexpr std::size_t kBytes = 3000001;
  const AllocationCounts before = allocation_counts();
  {
    const Buffer sent = Buffer::pinned(kBytes, kGpu), received = Buffer::pinned(kBytes, kGpu);
    EXPECT_EQ(allocation_counts().calls, before.calls + 2);
    EXPECT_EQ(sent.device(), Device{});
    const Shape shape{static_cast<std::int64_t>(kBytes)};
    const auto bytes = pattern(kBytes, 9);
    std::memcpy(sent.data(), bytes.data(), kBytes);
    const OwnedTensor middle(shape, DType::u8, kGpu);
    copy(*stream, sent.view(shape, DType::u8), middle);
    copy(*stream, middle, received.view(shape, DType::u8));
    stream->synchronize();
    EXPECT_EQ(std::memcmp(received.data(), bytes.data(), kBytes), 0);
  }
  EXPECT_EQ(allocation_counts().bytes_live, before.bytes_live);
  EXPECT_NE(device_runtime(DeviceKind::cuda).physical_name(0), "");
}

TEST_F(CudaRuntimeOn, SaysHowMuchMemoryIsFree) {
  const std::string text = message_of([] { Buffer(std::size_t{1} << 50, kGpu); });
  EXPECT_TRUE(has(text, "out of memory on cuda:0: 1024.00 TiB") || has(text, "1.00 PiB")) << text;
  EXPECT_TRUE(has(text, "are free")) << text;
  EXPECT_NO_THROW(Buffer(1024, kGpu));
}

TEST_F(CudaRuntimeOn, EventsOrderStreams) {
  const auto first = make_stream(kGpu), second = make_stream(kGpu);
  const auto written = make_event(kGpu);
  EXPECT_TRUE(written->done());  // nothing was recorded
  constexpr std::size_t kBytes = std::size_t{64} << 20;
  const Shape shape{static_cast<std::int64_t>(kBytes)};
  const OwnedTensor from(shape, DType::u8, kGpu), to(shape, DType::u8, kGpu);
  auto sent = pattern(kBytes, 1);
  std::vector<std::byte> received(kBytes);
  for (int repeat = 0; repeat < 5; ++repeat) {
    fill_zero(*second, to);
    second->synchronize();
    fill_zero(*first, from);
    copy(*first, view(sent), from);
    for (int i = 0; i < 20; ++i) copy(*first, from, to);
    written->record(*first);
    written->make_wait(*second);
    copy(*second, to, view(received));
    second->synchronize();
    EXPECT_TRUE(written->done());
    EXPECT_EQ(std::memcmp(received.data(), sent.data(), kBytes), 0);
    written->synchronize();
  }
}

TEST_F(CudaRuntimeOn, RefusesDevicesAndStreamsThatDoNotFit) {
  EXPECT_TRUE(has(message_of([] { Buffer(16, {DeviceKind::cuda, 999}); }), "cudaSetDevice(999)"));
  const auto host = make_stream(Device{});
  const OwnedTensor tensor({4}, DType::f32, kGpu);
  EXPECT_TRUE(has(message_of([&] { fill_zero(*host, tensor); }), "a stream of cpu"));
  EXPECT_THROW(tensor.tensor.ptr<float>(), Error);
}

TEST_F(CudaRuntimeOn, BackendSaysWhatIsMissing) {
  EXPECT_TRUE(has(message_of([] { make_backend(kGpu); }), "attention"));
}

TEST_F(CudaRuntimeOn, LaunchesWhatItRecorded) {
  DeviceTools& tools = device_tools(DeviceKind::cuda);
  ASSERT_EQ(tools.why_no_graphs(), "");
  const auto stream = make_stream(kGpu);
  constexpr std::int64_t kBytes = 1 << 20;
  const OwnedTensor from({kBytes}, DType::u8, kGpu), to({kBytes}, DType::u8, kGpu);
  fill_zero(*stream, to);
  tools.begin_capture(*stream);
  copy(*stream, from, to);
  const auto graph = tools.end_capture(*stream);
  std::vector<std::byte> back(kBytes);
  copy(*stream, to, view(back));
  stream->synchronize();
  EXPECT_EQ(back, std::vector<std::byte>(kBytes)) << "recording ran the work";
  for (const unsigned first : {1u, 2u}) {
    std::vector<std::byte> sent = pattern(kBytes, first);
    copy(*stream, view(sent), from);
    graph->launch(*stream);
    copy(*stream, to, view(back));
    stream->synchronize();
    EXPECT_EQ(back, sent);
  }
}

TEST_F(CudaRuntimeOn, StreamsSurviveARecordingThatFails) {
  DeviceTools& tools = device_tools(DeviceKind::cuda);
  const auto stream = make_stream(kGpu);
  const OwnedTensor tensor({256}, DType::u8, kGpu);
  tools.begin_capture(*stream);
  EXPECT_NE(message_of([&] { stream->synchronize(); }), "");  // forbidden meanwhile
  tools.drop_capture(*stream);
  fill_zero(*stream, tensor);
  EXPECT_NO_THROW(stream->synchronize());
}

TEST_F(CudaRuntimeOn, TellsTimeAndMemory) {
  DeviceTools& tools = device_tools(DeviceKind::cuda);
  const auto stream = make_stream(kGpu);
  const auto before = tools.memory(0);
  ASSERT_TRUE(before.has_value());
  const OwnedTensor large({std::int64_t{1} << 30}, DType::u8, kGpu);
  EXPECT_LE(tools.memory(0)->free + (std::size_t{1} << 29), before->free);
  const auto first = tools.make_time_mark(0), second = tools.make_time_mark(0);
  fill_zero(*stream, large);
  stream->synchronize();
  first->record(*stream);
  for (int i = 0; i < 20; ++i) fill_zero(*stream, large);
  second->record(*stream);
  second->synchronize();
  const double seconds = second->seconds_since(*first);
  EXPECT_GT(seconds, 20 * 1e9 / 2e13);  // no device writes 20 TB/s
  EXPECT_LT(seconds, 10);
}

}  // namespace
}  // namespace neox::testing
