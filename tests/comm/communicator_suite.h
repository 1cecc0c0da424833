#pragma once
// One suite for every Communicator, on the memory of every device. Each program includes it once
// and runs it with as many ranks as it was started with; one rank is the self communicator.

#include <chrono>
#include <cmath>
#include <cstdlib>
#include <ctime>
#include <deque>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "comm/device_world.h"
#include "comm/mpi.h"
#include "core/base/rng.h"
#include "core/tensor/buffer.h"
#include "kernels/cuda/device_runtime.h"
#include "tests/comm/fake_nccl.h"
#include "tests/support/deferred_runtime.h"

namespace neox {
namespace {

constexpr DType kTypes[] = {DType::f32, DType::bf16, DType::f16, DType::f64,
                            DType::i8,  DType::u8,   DType::i16, DType::u16,
                            DType::i32, DType::u32,  DType::i64, DType::u64};

template <class F>
void visit_type(DType dtype, F&& f) {
  switch (dtype) {
    case DType::f32:
      return f(float{});
    case DType::bf16:
      return f(bf16{});
    case DType::f16:
      return f(f16{});
    case DType::f64:
      return f(double{});
    case DType::i8:
      return f(std::int8_t{});
    case DType::u8:
      return f(std::uint8_t{});
    case DType::i16:
      return f(std::int16_t{});
    case DType::u16:
      return f(std::uint16_t{});
    case DType::i32:
      return f(std::int32_t{});
    case DType::u32:
      return f(std::uint32_t{});
    case DType::i64:
      return f(std::int64_t{});
    case DType::u64:
      return f(std::uint64_t{});
  }
}

// Small whole numbers: exact in every type, also summed over the ranks.
int value_of(int rank, std::int64_t i) {
  return static_cast<int>((i * 7 + rank * 5) % 29);
}

int reduced(ReduceOp op, int ranks, std::int64_t i) {
  int result = value_of(0, i);
  for (int r = 1; r < ranks; ++r) {
    const int v = value_of(r, i);
    result = op == ReduceOp::sum   ? result + v
             : op == ReduceOp::max ? std::max(result, v)
                                   : std::min(result, v);
  }
  return result;
}

using Keep = std::vector<std::shared_ptr<void>>;

/// What the suite runs on.
struct GroupKind {
  std::string name;
  Device device;
  /// "", or why this cannot run here; may choose another device.
  std::function<std::string(Device&)> prepare;
  /// The world, over an MPI world; what it needs to live goes to `keep`.
  std::function<std::unique_ptr<Communicator>(Keep& keep, Device device)> make_world;
  std::int64_t largest = 70001;  ///< elements
  bool rounds_once = true;       ///< 16-bit floats are reduced in float
};
std::ostream& operator<<(std::ostream& out, const GroupKind& kind) {
  return out << kind.name;
}

const Device kSimulated{DeviceKind::simulated, 0};

std::unique_ptr<Communicator> mpi_world(Keep&, Device) {
  return make_world_communicator();
}

GroupKind on_host() {
  return {"host", Device{}, [](Device&) { return ""; }, mpi_world, (1 << 20) + 1};
}
GroupKind staged(DeferredOrder order) {
  return {fmt::format("staged_{}", name_of(order)), kSimulated,
          [order](Device&) {
            use_deferred_runtime(order);
            return "";
          },
          mpi_world};
}
// NcclCommunicator's own code, on a device and an NCCL that are not real.
GroupKind fake_nccl(DeferredOrder order) {
  return {fmt::format("fake_nccl_{}", name_of(order)), kSimulated,
          [order](Device&) {
            use_deferred_runtime(order);
            return "";
          },
          [](Keep& keep, Device device) {
            auto control = std::shared_ptr<Communicator>(make_world_communicator());
            auto library = std::make_shared<FakeNccl>();
            keep = {std::make_shared<DeferredProgress>(), control, library};
            NcclOptions options;
            options.poll_seconds = 0;  // polling would ask for results
            return make_nccl_communicator(*control, device, *library, options);
          }};
}

// ---- on a GPU, where there is one ----------------------------------------------------------

std::string take_gpu(Device& device) {
  const std::string problem = register_cuda_runtime();
  if (!problem.empty()) return problem;
  MpiEnvironment mpi(nullptr, nullptr);
  device = choose_device(mpi.node(), DeviceKind::cuda);
  // Ranks that share a GPU are different machines to NCCL, which otherwise refuses.
  if (mpi.local_size() > device_runtime(DeviceKind::cuda).device_count()) {
    setenv("NCCL_HOSTID", fmt::format("rank{}", mpi.rank()).c_str(), 0);
  }
  return "";
}
GroupKind staged_on_gpu() {
  return {"staged_gpu", {DeviceKind::cuda, 0}, take_gpu, mpi_world, (1 << 20) + 1};
}
GroupKind nccl_on_gpu() {
  return {"nccl_gpu",
          {DeviceKind::cuda, 0},
          [](Device& device) {
            std::string problem = take_gpu(device);
            if (problem.empty()) nccl_library(problem);
            return problem;
          },
          [](Keep& keep, Device device) {
            std::string reason;
            auto control = std::shared_ptr<Communicator>(make_world_communicator());
            keep = {control};
            return make_nccl_communicator(*control, device, *nccl_library(reason));
          },
          (1 << 20) + 1,
          false};
}

class CommunicatorTest : public ::testing::TestWithParam<GroupKind> {
 protected:
  void SetUp() override {
    const std::string problem = GetParam().prepare(device);
    if (!problem.empty()) GTEST_SKIP() << problem;
    group_ = make_group();
    stream_ = make_stream(device);
    rank = group().rank();
    size = group().size();
  }
  std::unique_ptr<Communicator> make_group() {
    return GetParam().make_world(keep_.emplace_back(), device);
  }
  Communicator& group() { return *group_; }
  Stream& stream() { return *stream_; }
  OwnedTensor make(Shape shape, DType dtype) const { return {shape, dtype, device}; }

  // Writes f(i) to every element, as work of the stream.
  template <class T, class F>
  void write(Tensor tensor, F f) {
    std::vector<T> values(static_cast<std::size_t>(tensor.numel()));
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = T(f(static_cast<std::int64_t>(i)));
    copy(stream(), host_view(values), tensor);
  }
  template <class T>
  std::vector<T> read(ConstTensor tensor) {
    std::vector<T> values(static_cast<std::size_t>(tensor.numel()));
    copy(stream(), tensor,
         Tensor(reinterpret_cast<std::byte*>(values.data()), {tensor.numel()}, tensor.dtype,
                Device{}));
    stream().synchronize();
    return values;
  }
  void fill(Tensor tensor, int of_rank, std::int64_t first = 0) {
    visit_type(tensor.dtype, [&](auto zero) {
      using T = decltype(zero);
      write<T>(tensor,
               [&](std::int64_t i) { return static_cast<float>(value_of(of_rank, first + i)); });
    });
  }
  // Number of elements that differ from want(i).
  template <class F>
  std::int64_t wrong(ConstTensor tensor, F want) {
    std::int64_t count = 0;
    visit_type(tensor.dtype, [&](auto zero) {
      using T = decltype(zero);
      const std::vector<T> data = read<T>(tensor);
      for (std::int64_t i = 0; i < tensor.numel(); ++i) {
        count += static_cast<double>(static_cast<float>(data[static_cast<std::size_t>(i)])) !=
                 static_cast<double>(want(i));
      }
    });
    return count;
  }

  std::deque<Keep> keep_;
  std::unique_ptr<Communicator> group_;
  std::unique_ptr<Stream> stream_;
  Device device = GetParam().device;
  const std::array<std::int64_t, 4> sizes = {0, 1, 7, GetParam().largest};
  int rank = 0, size = 1;
};

TEST_P(CommunicatorTest, AllReduceOfEveryTypeAndSize) {
  for (const DType dtype : kTypes) {
    for (const ReduceOp op : {ReduceOp::sum, ReduceOp::max, ReduceOp::min}) {
      for (const std::int64_t n : sizes) {
        const OwnedTensor x = make({n}, dtype);
        fill(x, rank);
        group().all_reduce(x, op, stream()).wait(stream());
        EXPECT_EQ(wrong(x, [&](std::int64_t i) { return reduced(op, size, i); }), 0)
            << name_of(dtype) << " x " << n;
      }
    }
  }
}

TEST_P(CommunicatorTest, ReduceScatterOfEveryTypeAndSize) {
  for (const DType dtype : kTypes) {
    for (const ReduceOp op : {ReduceOp::sum, ReduceOp::max, ReduceOp::min}) {
      for (const std::int64_t n : sizes) {
        const OwnedTensor in = make({n * size}, dtype);
        const OwnedTensor out = make({n}, dtype);
        fill(in, rank);
        const auto want = [&](std::int64_t i) { return reduced(op, size, rank * n + i); };
        group().reduce_scatter(in, out, op, stream()).wait(stream());
        EXPECT_EQ(wrong(out, want), 0) << name_of(dtype) << " x " << n;
        const Tensor part = in.tensor.slice(rank * n, (rank + 1) * n);
        group().reduce_scatter(in, part, op, stream()).wait(stream());
        EXPECT_EQ(wrong(part, want), 0) << "in place, " << name_of(dtype) << " x " << n;
      }
    }
  }
}

TEST_P(CommunicatorTest, AllGatherAllToAllBroadcast) {
  for (const DType dtype : kTypes) {
    for (const std::int64_t n : sizes) {
      const OwnedTensor in = make({n}, dtype);
      const OwnedTensor out = make({n * size}, dtype);
      const auto gathered = [&](std::int64_t i) {
        return value_of(static_cast<int>(i / n), i % n);
      };
      fill(in, rank);
      group().all_gather(in, out, stream()).wait(stream());
      EXPECT_EQ(wrong(out, gathered), 0) << name_of(dtype) << " x " << n;

      fill_zero(stream(), out);
      const Tensor part = out.tensor.slice(rank * n, (rank + 1) * n);
      fill(part, rank);
      group().all_gather(part, out, stream()).wait(stream());
      EXPECT_EQ(wrong(out, gathered), 0) << "in place, " << name_of(dtype) << " x " << n;

      const OwnedTensor parts = make({n * size}, dtype);
      fill(parts, rank);
      fill_zero(stream(), out);
      group().all_to_all(parts, out, stream()).wait(stream());
      const auto exchanged = [&](std::int64_t i) {
        return value_of(static_cast<int>(i / n), rank * n + i % n);
      };
      EXPECT_EQ(wrong(out, exchanged), 0) << name_of(dtype) << " x " << n;

      for (int root = 0; root < size; ++root) {
        fill(in, rank);
        group().broadcast(in, root, stream()).wait(stream());
        EXPECT_EQ(wrong(in, [&](std::int64_t i) { return value_of(root, i); }), 0);
      }
    }
  }
}

// Every rank sends first, with messages too large to be buffered.
TEST_P(CommunicatorTest, SendsAndReceivesAroundARing) {
  if (size == 1) return;
  const int next = (rank + 1) % size, previous = (rank + size - 1) % size;
  for (const std::int64_t n : sizes) {
    const OwnedTensor out = make({n}, DType::f32);
    const OwnedTensor out2 = make({n}, DType::f32);
    const OwnedTensor in = make({n}, DType::f32);
    const OwnedTensor in2 = make({n}, DType::f32);
    fill(out, rank);
    fill(out2, rank, 3);
    const Work a = group().send(out, next, stream()), b = group().send(out2, next, stream());
    const OwnedTensor sum = make({n}, DType::f32);
    fill(sum, rank);
    const Work c = group().all_reduce(sum, ReduceOp::sum, stream());
    const Work d = group().recv(in, previous, stream()), e = group().recv(in2, previous, stream());
    for (const Work& work : {e, d, c, b, a}) work.wait(stream());
    EXPECT_EQ(wrong(in, [&](std::int64_t i) { return value_of(previous, i); }), 0);
    EXPECT_EQ(wrong(in2, [&](std::int64_t i) { return value_of(previous, i + 3); }), 0);
    EXPECT_EQ(wrong(sum, [&](std::int64_t i) { return reduced(ReduceOp::sum, size, i); }), 0);
  }
}

TEST_P(CommunicatorTest, ManyOperationsInFlightKeepTheirOrder) {
  constexpr int kOperations = 1000;
  const OwnedTensor all = make({kOperations, 3}, DType::i64);
  const OwnedTensor chain = make({5}, DType::i64);
  write<std::int64_t>(all, [](std::int64_t) { return 1; });
  write<std::int64_t>(chain, [&](std::int64_t) { return rank; });
  std::vector<Work> works;
  std::int64_t want = 0;
  for (int i = 0; i < kOperations; ++i) {
    works.push_back(group().all_reduce(all.tensor.slice(i, i + 1), ReduceOp::sum, stream()));
    // One tensor through alternating operations: only the queued order gives `want`.
    if (i % 100 == 0) {
      works.push_back(group().broadcast(chain, i / 100 % size, stream()));
      if (i == 0) want = 0;
      works.push_back(group().all_reduce(chain, ReduceOp::sum, stream()));
      want = i == 0 ? 0 : want * size;
    }
  }
  for (auto it = works.rbegin(); it != works.rend(); ++it) it->wait(stream());
  works.front().wait(stream());
  EXPECT_EQ(wrong(all, [&](std::int64_t) { return size; }), 0);
  EXPECT_EQ(wrong(chain, [&](std::int64_t) { return want; }), 0);
}

// Nothing is synchronised between operations that may share memory on their way.
TEST_P(CommunicatorTest, ResultsStayApartWithoutSynchronising) {
  constexpr int kRounds = 6;
  constexpr std::int64_t n = 1000;
  std::vector<OwnedTensor> sums, copies, messages;
  for (int i = 0; i < kRounds; ++i) {
    for (auto* list : {&sums, &copies, &messages}) list->push_back(make({n}, DType::i32));
    fill(sums.back(), rank, i);
    group().all_reduce(sums.back(), ReduceOp::sum, stream()).wait(stream());
    fill(copies.back(), rank, 2 * i);
    group().broadcast(copies.back(), i % size, stream()).wait(stream());
    if (size == 1) continue;
    fill(messages.back(), rank, 3 * i);
    const Work work = rank == 0   ? group().send(messages.back(), 1, stream())
                      : rank == 1 ? group().recv(messages.back(), 0, stream())
                                  : Work();
    work.wait(stream());
    if (rank == 0) fill(messages.back(), 0, 3 * i);  // may be overwritten now
  }
  for (int i = 0; i < kRounds; ++i) {
    const auto at = static_cast<std::size_t>(i);
    EXPECT_EQ(wrong(sums[at], [&](std::int64_t k) { return reduced(ReduceOp::sum, size, i + k); }),
              0);
    EXPECT_EQ(wrong(copies[at], [&](std::int64_t k) { return value_of(i % size, 2 * i + k); }), 0);
    if (size == 1 || rank > 1) continue;
    EXPECT_EQ(wrong(messages[at], [&](std::int64_t k) { return value_of(0, 3 * i + k); }), 0);
  }
}

TEST_P(CommunicatorTest, SixteenBitFloatsAreSummedInFloat) {
  if (!GetParam().rounds_once) GTEST_SKIP() << "may round after every addition";
  for (const DType dtype : {DType::bf16, DType::f16}) {
    const float big = dtype == DType::bf16 ? 256.0f : 2048.0f;
    const OwnedTensor x = make({3}, dtype);
    visit_float(dtype, [&](auto zero) {
      using T = decltype(zero);
      write<T>(x, [&](std::int64_t) { return rank == 0 ? big : 1.0f; });
    });
    group().all_reduce(x, ReduceOp::sum, stream()).wait(stream());
    visit_float(dtype, [&](auto zero) {
      using T = decltype(zero);
      // Rounding after every addition would give `big` for any number of ranks.
      const auto want = static_cast<float>(T(big + static_cast<float>(size - 1)));
      EXPECT_EQ(static_cast<float>(read<T>(x)[1]), want);
    });
  }
}

TEST_P(CommunicatorTest, SumsAreBitwiseReproducible) {
  constexpr std::int64_t n = 3 * (1 << 18) + 17;
  std::vector<float> first_sum, first_part;
  for (int repeat = 0; repeat < 3; ++repeat) {
    const OwnedTensor x = make({n * size}, DType::f32);
    const OwnedTensor part = make({n}, DType::f32);
    write<float>(x, [&](std::int64_t i) {
      return static_cast<float>(std::sin(static_cast<double>(i) * (rank + 1.37)));
    });
    group().reduce_scatter(x, part, ReduceOp::sum, stream()).wait(stream());
    group().all_reduce(x, ReduceOp::sum, stream()).wait(stream());
    const auto sum = read<float>(x), own = read<float>(part);
    if (repeat == 0) {
      first_sum = sum;
      first_part = own;
    }
    EXPECT_TRUE(std::equal(sum.begin(), sum.end(), first_sum.begin()));
    EXPECT_TRUE(std::equal(own.begin(), own.end(), first_part.begin()));
  }
}

TEST_P(CommunicatorTest, SplitGroupsWorkSideBySide) {
  const auto half = group().split([](int r) { return SplitPlace{r % 2, -r}; }, "half");  // reversed
  EXPECT_EQ(half->name(), "half");
  const int members = (size + 1 - rank % 2) / 2;
  ASSERT_EQ(half->size(), members);
  EXPECT_EQ(half->rank(), members - 1 - rank / 2);
  const OwnedTensor a = make({100}, DType::i64);
  const OwnedTensor b = make({100}, DType::i64);
  write<std::int64_t>(a, [&](std::int64_t) { return rank; });
  write<std::int64_t>(b, [&](std::int64_t) { return rank; });
  // The groups run concurrently, so ranks may queue on them in different orders.
  std::array<Work, 2> works;
  if (rank % 2 == 0) {
    works = {half->all_reduce(a, ReduceOp::sum, stream()),
             group().all_reduce(b, ReduceOp::sum, stream())};
  } else {
    works[1] = group().all_reduce(b, ReduceOp::sum, stream());
    works[0] = half->all_reduce(a, ReduceOp::sum, stream());
  }
  for (const Work& work : works) work.wait(stream());
  int want = 0;
  for (int r = rank % 2; r < size; r += 2) want += r;
  EXPECT_EQ(wrong(a, [&](std::int64_t) { return want; }), 0);
  EXPECT_EQ(wrong(b, [&](std::int64_t) { return size * (size - 1) / 2; }), 0);
}

TEST_P(CommunicatorTest, ControlPlane) {
  std::vector<double> reals = {rank + 0.5, -1.0 * rank};
  group().host_all_reduce(std::span(reals), ReduceOp::max);
  EXPECT_EQ(reals[0], size - 0.5);
  EXPECT_EQ(reals[1], 0.0);
  std::vector<std::uint64_t> sums(300000, ~std::uint64_t{0});  // wraps
  group().host_all_reduce(std::span(sums), ReduceOp::sum);
  EXPECT_EQ(sums.back(), ~std::uint64_t{0} * static_cast<std::uint64_t>(size));
  std::int64_t lowest = 10 - rank;
  group().host_all_reduce(std::span(&lowest, 1), ReduceOp::min);
  EXPECT_EQ(lowest, 11 - size);
  for (int root = 0; root < size; ++root) {
    EXPECT_EQ(group().host_broadcast(fmt::format("text of {}", rank), root),
              fmt::format("text of {}", root));
  }
  EXPECT_EQ(group().host_broadcast("", size - 1), "");
  const auto texts = group().host_all_gather(std::string(static_cast<std::size_t>(rank), 'x'));
  ASSERT_EQ(texts.size(), static_cast<std::size_t>(size));
  for (int r = 0; r < size; ++r) {
    EXPECT_EQ(texts[static_cast<std::size_t>(r)].size(), static_cast<std::size_t>(r));
  }
  group().barrier();
}

TEST_P(CommunicatorTest, AgreeGivesOneErrorEverywhere) {
  EXPECT_NO_THROW(agree(group(), "loading", ""));
  for (int failing = 0; failing < size; ++failing) {
    std::string message;
    try {
      agree(group(), "loading", rank >= failing ? fmt::format("disk {} is gone", rank) : "");
    } catch (const Error& error) {
      message = error.what();
    }
    EXPECT_THAT(message, ::testing::StartsWith(
                             size == 1 ? "loading failed: "
                                       : fmt::format("loading failed on rank {} (", failing)));
    EXPECT_THAT(message, ::testing::HasSubstr(fmt::format("disk {} is gone", failing)));
    const auto all = group().host_all_gather(message);
    EXPECT_THAT(all, ::testing::Each(message));
  }
}

TEST_P(CommunicatorTest, ArgumentsAreChecked) {
  const OwnedTensor a = make({6 * size + 1}, DType::f32);
  const OwnedTensor b = make({6}, DType::f32);
  const OwnedTensor c = make({6}, DType::bf16);
  EXPECT_THROW(group().reduce_scatter(a, b, ReduceOp::sum, stream()), Error);
  EXPECT_THROW(group().all_gather(b, a, stream()), Error);
  EXPECT_THROW(group().all_gather(c, b, stream()), Error);
  EXPECT_THROW(group().broadcast(b, size, stream()), Error);
  EXPECT_THROW(group().send(b, size, stream()), Error);
  EXPECT_THROW(group().send(b, rank, stream()), Error);
  EXPECT_THROW(group().recv(b, -1, stream()), Error);
  EXPECT_THROW(group().all_reduce(Tensor{}, ReduceOp::sum, stream()), Error);
  if (size > 1) {
    EXPECT_THROW(group().all_to_all(a, a, stream()), Error);
  }
}

TEST_P(CommunicatorTest, TrafficIsCounted) {
  const OwnedTensor in = make({8 * size}, DType::bf16);
  const OwnedTensor out = make({8}, DType::bf16);
  group().reduce_scatter(in, out, ReduceOp::sum, stream()).wait(stream());
  group().all_gather(out, in, stream()).wait(stream());
  group().all_gather(out, in, stream()).wait(stream());
  EXPECT_EQ(group().traffic(Collective::reduce_scatter).bytes, 16 * size);
  EXPECT_EQ(group().traffic(Collective::all_gather).calls, 2);
  EXPECT_EQ(group().traffic(Collective::all_gather).bytes, 32);
  EXPECT_EQ(group().traffic(Collective::send).calls, 0);
}

// A group whose exception is on its way to main() must not wait for peers that will never come.
TEST_P(CommunicatorTest, UnwindingGivesUpUnfinishedWork) {
  if (size == 1) return;
  if (rank == 0) {
    const OwnedTensor x = make({1000}, DType::f32);
    try {
      const auto lonely = make_group();
      lonely->all_reduce(x, ReduceOp::sum, stream());  // nobody joins
      throw Error("out of luck");
    } catch (const Error& error) {
      EXPECT_STREQ(error.what(), "out of luck");
    }
  } else {
    const auto unused = make_group();
    group().barrier();
    return;
  }
  group().barrier();
}

// Whoever waits leaves the core to those who compute.
TEST_P(CommunicatorTest, WaitingSleeps) {
  if (size == 1) return;
  const OwnedTensor x = make({1000}, DType::f32);
  group().barrier();
  const std::clock_t before = std::clock();  // of the whole process
  if (rank == size - 1) std::this_thread::sleep_for(std::chrono::milliseconds(500));
  group().all_reduce(x, ReduceOp::sum, stream()).wait(stream());
  const double cpu = static_cast<double>(std::clock() - before) / CLOCKS_PER_SEC;
  EXPECT_LT(cpu, 0.25) << "seconds of processor time in a wait of half a second";
}

INSTANTIATE_TEST_SUITE_P(
    On, CommunicatorTest,
    ::testing::Values(on_host(), staged(DeferredOrder::at_once), staged(DeferredOrder::lazy),
                      staged(DeferredOrder::random), fake_nccl(DeferredOrder::lazy),
                      fake_nccl(DeferredOrder::random), staged_on_gpu(), nccl_on_gpu()),
    ::testing::PrintToStringParamName());

}  // namespace
}  // namespace neox
