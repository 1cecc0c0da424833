#pragma once
// What NcclCommunicator does with NCCL, seen by a fake one: the order of calls, failures, and ranks
// that don't come. With as many ranks as the program was started with.

#include <chrono>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "comm/abort_hooks.h"
#include "comm/activity_slot.h"
#include "comm/device_world.h"
#include "comm/mpi.h"
#include "core/tensor/buffer.h"
#include "tests/comm/fake_nccl.h"
#include "tests/support/deferred_runtime.h"

namespace neox {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

const Device kFakeGpu{DeviceKind::simulated, 0};

std::string message_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

template <class F>
bool within_seconds(double seconds, F&& condition) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return true;
}

class NcclTest : public ::testing::Test {
 protected:
  NcclTest() { set_deferred_devices(1, ""); }
  std::unique_ptr<Communicator> make(double timeout = 60, double poll = 0) {
    NcclOptions options;
    options.timeout_seconds = timeout;
    options.poll_seconds = poll;
    return make_nccl_communicator(world, kFakeGpu, nccl, options);
  }
  OwnedTensor tensor(std::int64_t n = 100) {
    OwnedTensor made({n}, DType::f32, kFakeGpu);
    fill_zero(*stream, made);
    return made;
  }

  const bool registered = (use_deferred_runtime(DeferredOrder::lazy), true);
  DeferredProgress progress;
  std::unique_ptr<Communicator> control = make_world_communicator();
  Communicator& world = *control;
  FakeNccl nccl;
  std::unique_ptr<Stream> stream = make_stream(kFakeGpu);
  const int rank = world.rank(), size = world.size();
};

TEST_F(NcclTest, CallsComeInOrder) {
  {
    const auto group = make();
    EXPECT_EQ(group->rank(), rank);
    EXPECT_EQ(group->size(), size);
    const OwnedTensor x = tensor(4 * size), y = tensor(4 * size);
    group->all_reduce(x, ReduceOp::sum, *stream).wait(*stream);
    group->all_to_all(x, y, *stream).wait(*stream);
    group->barrier();
    stream->synchronize();
  }
  std::vector<std::string> want;
  if (rank == 0) want.push_back("get_unique_id");
  want.push_back(fmt::format("init {} ranks as {}, non-blocking", size, rank));
  want.push_back(fmt::format("split color 0 key {}, blocking", rank));
  want.push_back("all_reduce");
  want.push_back("group_start");
  for (int r = 0; r < size; ++r) {
    want.push_back("send");
    want.push_back("recv");
  }
  want.push_back("group_end");
  for (const char* what : {"group", "root"}) {  // the root last
    want.push_back(fmt::format("finalize {} of {}", what, size));
    want.push_back(fmt::format("destroy {} of {}", what, size));
  }
  EXPECT_EQ(nccl.log(), want);
}

TEST_F(NcclTest, WhatNcclCannotDoGoesThroughTheControlGroup) {
  const auto group = make();
  const OwnedTensor on_host({5}, DType::f32), small({5}, DType::i16, kFakeGpu);
  fill_zero(*stream, on_host);
  fill_zero(*stream, small);
  group->all_reduce(on_host, ReduceOp::sum, *stream).wait(*stream);
  group->all_reduce(small, ReduceOp::max, *stream).wait(*stream);
  EXPECT_EQ(nccl.count("all_reduce"), 0);
  group->broadcast(small, 0, *stream).wait(*stream);  // only moves: any type
  EXPECT_EQ(nccl.count("broadcast"), 1);
  EXPECT_EQ(group->traffic(Collective::all_reduce).calls, 2);
  EXPECT_EQ(group->traffic(Collective::all_reduce).bytes, 30);
  stream->synchronize();
}

TEST_F(NcclTest, SplitsAreSplitByNccl) {
  const auto group = make();
  const auto part = group->split([](int r) { return SplitPlace{r % 2, -r}; }, "half");
  const auto own = group->split([](int r) { return SplitPlace{r, 0}; }, "alone");
  EXPECT_EQ(own->size(), 1);
  EXPECT_EQ(nccl.count("split color -1"), size == 1 ? 0 : size <= 3 ? 2 : 1);
  EXPECT_EQ(nccl.count("get_unique_id"), rank == 0 ? 1 : 0);
  if (part->size() == 1) return;
  EXPECT_EQ(part->rank(), part->size() - 1 - rank / 2);
  // A group that came from a split can be split again; it gets a root of its own.
  const auto again = part->split([](int) { return SplitPlace{}; }, "again");
  EXPECT_EQ(again->size(), part->size());
  const OwnedTensor x = tensor();
  again->all_reduce(x, ReduceOp::sum, *stream).wait(*stream);
  stream->synchronize();
}

TEST_F(NcclTest, EachMessageChannelIsConnectedOnce) {
  if (size == 1) return;
  {
    const auto group = make();
    const OwnedTensor a = tensor(), b = tensor();
    const int next = (rank + 1) % size, previous = (rank + size - 1) % size;
    for (int i = 0; i < 3; ++i) {
      const Work sent = group->send(a, next, *stream);
      const Work received = group->recv(b, previous, *stream);
      sent.wait(*stream);
      received.wait(*stream);
    }
    stream->synchronize();
    EXPECT_EQ(nccl.count("send"), 3);
    EXPECT_EQ(nccl.count("recv"), 3);
    EXPECT_EQ(nccl.count("init 2 ranks"), size == 2 ? 3 : 2);
    EXPECT_EQ(nccl.count("finalize root of 2"), 2);  // those of the pairs are not kept
  }
  EXPECT_EQ(nccl.count("abort"), 0);
  EXPECT_EQ(nccl.count("destroy group"), 3);
}

TEST_F(NcclTest, AFailedCallNamesItself) {
  const auto group = make();
  const OwnedTensor x = tensor();
  nccl.fail_next_operation = 3;
  EXPECT_EQ(message_of([&] { group->all_reduce(x, ReduceOp::sum, *stream); }),
            "NCCL call ncclAllReduce of the world group failed with ncclInternalError (3): text of "
            "3; last error: the fake's");
  nccl.fail_next_operation = 1;
  const OwnedTensor y = tensor(size);
  EXPECT_THAT(message_of([&] { group->all_to_all(y, y, *stream); }),
              HasSubstr("ncclUnhandledCudaError (1)"));
  EXPECT_EQ(nccl.count("group_end"), 1);  // the group call is closed all the same
}

TEST_F(NcclTest, AnAsynchronousErrorSurfacesAtTheNextWait) {
  const auto group = make();
  const OwnedTensor x = tensor();
  nccl.hang_operations = true;
  const Work work = group->all_reduce(x, ReduceOp::sum, *stream);
  nccl.async_error = 6;
  const std::string text = message_of([&] { work.wait(*stream); });
  EXPECT_THAT(text, AllOf(HasSubstr("the world group"), HasSubstr("ncclRemoteError (6)"),
                          HasSubstr("last error: the fake's")));
  EXPECT_EQ(nccl.count("abort group"), 1);
  EXPECT_EQ(message_of([&] { group->broadcast(x, 0, *stream); }), text);
  EXPECT_EQ(message_of([&] { work.wait(*stream); }), text);
  stream->synchronize();  // the aborted operation holds nobody up
  world.barrier();
}

// Nobody waits in the communicator: the polling thread finds the error and frees the device.
TEST_F(NcclTest, ThePollingThreadAbortsWhatFailed) {
  const auto group = make(60, 0.01);
  const OwnedTensor x = tensor();
  nccl.hang_operations = true;
  group->all_reduce(x, ReduceOp::sum, *stream).wait(*stream);
  std::thread failure([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    nccl.async_error = 6;
  });
  stream->synchronize();
  failure.join();
  EXPECT_EQ(nccl.count("abort group"), 1);
  EXPECT_THAT(message_of([&] { group->all_reduce(x, ReduceOp::sum, *stream); }),
              HasSubstr("ncclRemoteError"));
  world.barrier();
}

// A device that waits for other ranks says so for the watchdog; one that computes does not.
TEST_F(NcclTest, AnOperationThatDoesNotEndIsPublished) {
  ActivitySlot slot;
  redirect_activity(&slot);
  {
    const auto group = make(60, 0.01);
    const OwnedTensor x = tensor();
    nccl.hang_operations = true;
    std::atomic<bool> computing{true};
    enqueue_deferred(stream->native(), [&] { return !computing; });
    group->all_reduce(x, ReduceOp::sum, *stream).wait(*stream);
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    EXPECT_EQ(slot.device_waits_in, -1);
    computing = false;
    const int kind = static_cast<int>(Collective::all_reduce);
    EXPECT_TRUE(within_seconds(10, [&] { return slot.device_waits_in == kind; }));
    EXPECT_EQ(slot.device_group.get(), "world");
    nccl.hang_operations = false;
    EXPECT_TRUE(within_seconds(10, [&] { return slot.device_waits_in == -1; }));
    stream->synchronize();
  }
  redirect_activity(nullptr);
  world.barrier();
}

TEST_F(NcclTest, TheEndOfTheJobAbortsWhatRuns) {
  const auto group = make();
  const OwnedTensor x = tensor();
  nccl.hang_operations = true;
  group->all_reduce(x, ReduceOp::sum, *stream).wait(*stream);
  run_abort_hooks(5.0);
  EXPECT_EQ(nccl.count("abort group"), 1);
  stream->synchronize();
  world.barrier();
}

TEST_F(NcclTest, UnwindingAborts) {
  const OwnedTensor x = tensor();
  try {
    const auto group = make();
    nccl.hang_operations = true;
    group->all_reduce(x, ReduceOp::sum, *stream).wait(*stream);
    throw Error("out of luck");
  } catch (const Error&) {
  }
  EXPECT_EQ(nccl.count("abort group"), 1);
  EXPECT_EQ(nccl.count("abort root"), 1);
  EXPECT_EQ(nccl.count("finalize"), 0);
  stream->synchronize();
  world.barrier();
}

TEST_F(NcclTest, RanksThatDoNotComeAreNamed) {
  if (size == 1) return;
  std::string text;
  if (rank < (size + 1) / 2) text = message_of([&] { make(0.3); });
  world.barrier();
  if (rank >= (size + 1) / 2) return;
  EXPECT_THAT(text, HasSubstr(size == 2 ? "rank 1 of its 2 ranks did not come within 0.3 s"
                                        : "ranks 2, 3 of its 4 ranks did not come within 0.3 s"));
  EXPECT_EQ(nccl.count("init"), 0);  // nobody entered NCCL
}

TEST_F(NcclTest, ARankWhoseInitHangsIsNamedAndItsGroupAborted) {
  nccl.hang_init = rank == size - 1;
  const std::string text = message_of([&] { make(0.3); });
  EXPECT_THAT(text, AllOf(HasSubstr("ncclCommInitRankConfig did not finish within 0.3 s"),
                          HasSubstr("NCCL_DEBUG")));
  EXPECT_EQ(nccl.count("abort root"), 1);
  world.barrier();
}

TEST_F(NcclTest, AWorldOfDevicesChoosesItsTransport) {
  MpiEnvironment mpi(nullptr, nullptr);
  DeviceWorldOptions options;
  options.library = &nccl;
  options.nccl.poll_seconds = 0;
  {
    const DeviceWorld own(world, mpi.node(), kFakeGpu, options);
    EXPECT_EQ(own.description(), size == 1 ? "one rank" : "NCCL 0.0.1");
    EXPECT_EQ(&own.group() == &world, size == 1);
  }
  set_deferred_devices(1, rank < 2 ? "0000:65:00.0" : fmt::format("0000:65:0{}.0", rank));
  if (size > 1) {
    const DeviceWorld shared(world, mpi.node(), kFakeGpu, options);
    EXPECT_EQ(&shared.group(), &world);
    EXPECT_THAT(shared.description(),
                AllOf(HasSubstr("MPI through host memory, because ranks 0, 1"),
                      HasSubstr("share the GPU 0000:65:00.0")));
    options.transport = DeviceTransport::nccl;
    EXPECT_THAT(message_of([&] { DeviceWorld(world, mpi.node(), kFakeGpu, options); }),
                AllOf(HasSubstr("ranks 0, 1"), HasSubstr("one GPU per rank"),
                      HasSubstr("by MPI through host memory")));
    options.may_share_devices = true;
    EXPECT_NE(&DeviceWorld(world, mpi.node(), kFakeGpu, options).group(), &world);
    options.transport = DeviceTransport::mpi;
    EXPECT_EQ(DeviceWorld(world, mpi.node(), kFakeGpu, options).description(),
              "MPI through host memory");
    EXPECT_EQ(DeviceWorld(world, mpi.node(), Device{}).description(), "MPI");
    EXPECT_THAT(DeviceWorld(world, mpi.node(), kFakeGpu).description(),
                HasSubstr("NCCL does not know the device simulated:0"));
  }
  set_deferred_devices(3, "");
  EXPECT_EQ(choose_device(mpi.node(), DeviceKind::simulated),
            (Device{DeviceKind::simulated, rank % 3}));
  set_deferred_devices(0, "");
  EXPECT_THROW(choose_device(mpi.node(), DeviceKind::simulated), Error);
  set_deferred_devices(1, "");
}

TEST(NcclLibrary, OpensOrSaysWhyNot) {
  std::string reason;
  NcclLibrary* library = nccl_library(reason);
  EXPECT_EQ(library == nullptr, !reason.empty()) << reason;
  if (library == nullptr) GTEST_SKIP() << reason;
  EXPECT_THAT(library->version(), ::testing::StartsWith("2."));
  EXPECT_NE(library->error_text(4, nullptr), "");
  EXPECT_EQ(nccl_result_name(6), "ncclRemoteError");
  EXPECT_EQ(nccl_result_name(99), "ncclResult_t 99");
}

}  // namespace
}  // namespace neox
