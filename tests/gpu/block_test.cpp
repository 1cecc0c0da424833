// What kernels/cuda/block.cuh and tensor_core.cuh promise, on the GPU where there is one and on the
// simulated device; and that the simulated device notices kernels that break the rules.

#include <algorithm>
#include <cmath>

#include "kernels/cuda/family.h"
#include "tests/gpu/block_kernels.h"
#include "tests/gpu/device_matrix.h"
#include "tests/gpu/gpu_support.h"

namespace neox::testing {
namespace {

/// Runs test kernels on arrays of the host.
class TestKernels : private CudaFamily {
 public:
  explicit TestKernels(Device device) : CudaFamily(device), stream_(make_stream(device)) {}

  /// What `test` makes of in; NaN where it writes nothing.
  std::vector<float> block(BlockTest test, const std::vector<float>& in, std::size_t results) {
    const OwnedTensor from = on_device(in);
    const OwnedTensor to = on_device(std::vector<float>(results, std::nanf("")));
    const auto threads = static_cast<int>(in.size());
    run(*stream_, "block test", [&](const cuda::Launch& launch) {
      run_block_test(launch, test, threads, data(from), data(to));
    });
    return read(to);
  }

  std::vector<float> mma(DType dtype, bool loads, ConstTensor a, ConstTensor b,
                         const std::vector<float>& c) {
    const OwnedTensor on_a(a.shape, dtype, device_), on_b(b.shape, dtype, device_);
    copy(*stream_, a, on_a);
    copy(*stream_, b, on_b);
    const OwnedTensor from = on_device(c), to = on_device(c);
    run(*stream_, "mma test", [&](const cuda::Launch& launch) {
      run_mma_test(launch, dtype == DType::bf16, loads, on_a.tensor.data, on_b.tensor.data,
                   data(from), data(to));
    });
    return read(to);
  }

 private:
  static float* data(const OwnedTensor& t) { return reinterpret_cast<float*>(t.tensor.data); }
  OwnedTensor on_device(const std::vector<float>& values) {
    return testing::on_device(device_, *stream_, values,
                              {static_cast<std::int64_t>(values.size())});
  }
  std::vector<float> read(const OwnedTensor& tensor) {
    return from_device<float>(*stream_, tensor);
  }

  std::unique_ptr<Stream> stream_;
};

std::vector<float> numbers(int n, std::uint64_t seed = 1) {
  std::vector<float> values;
  for (const double v : normal_values(n, seed)) values.push_back(static_cast<float>(v));
  return values;
}

// ---- what is promised --------------------------------------------------------------------------

std::vector<float> expected(BlockTest test, const std::vector<float>& in) {
  std::vector<float> want(in.size());
  for (std::size_t i = 0; i < in.size(); ++i) {
    switch (test) {
      case BlockTest::swap_neighbours:
        want[i] = in[i ^ 1];
        break;
      case BlockTest::copy_async:
        want[i] = i % 4 == 0 ? 2 * in[i] : in[i];
        break;
      default:
        want[i] = in[in.size() - 1 - i];
    }
  }
  return want;
}

void check_shared_memory(Device device) {
  TestKernels kernels(device);
  for (const int threads : {32, 64, 512, 1024}) {
    const std::vector<float> in = numbers(threads);
    for (const auto test : {BlockTest::reverse, BlockTest::reverse_in_large_memory,
                            BlockTest::swap_neighbours, BlockTest::copy_async}) {
      const auto run = [&] { return kernels.block(test, in, in.size()); };
      EXPECT_EQ(orders_that_differ<std::vector<float>>(expected(test, in), run), 0)
          << threads << " threads, test " << static_cast<int>(test);
    }
  }
}

void check_reductions(Device device) {
  TestKernels kernels(device);
  for (const int threads : {32, 64, 96, 256, 1024}) {
    const std::vector<float> in = numbers(threads, 7);
    const auto n = in.size();
    const auto run = [&] { return kernels.block(BlockTest::reductions, in, 3 * n * 8); };
    const std::vector<float> got = run();
    EXPECT_EQ(orders_that_differ<std::vector<float>>(got, run), 0);
    for (std::size_t block = 0; block < 3; ++block) {
      double sum = 0, top = -1e30;
      for (const float v : in) {
        const float value = v + static_cast<float>(block);
        sum += value;
        top = std::max(top, static_cast<double>(value));
      }
      const float* first = &got[block * n * 8];
      EXPECT_NEAR(first[0], sum, 1e-3);
      EXPECT_EQ(first[1], static_cast<float>(sum));
      EXPECT_EQ(first[2], static_cast<float>(top));
      EXPECT_EQ(first[3], first[0]);
      EXPECT_NEAR(first[4], -2 * sum, 2e-3);
      for (std::size_t t = 0; t < n; ++t) {
        const float* of = first + t * 8;
        for (int i = 0; i < 5; ++i) EXPECT_EQ(of[i], first[i]) << "thread " << t;
        EXPECT_EQ(of[5], static_cast<float>(t / 32));
        EXPECT_EQ(of[6], static_cast<float>(t % 32));
        unsigned ballot = 0;
        for (std::size_t lane = 0; lane < 32; ++lane) {
          const bool positive = in[t / 32 * 32 + lane] + static_cast<float>(block) > 0.0f;
          ballot |= positive ? 1u << lane : 0u;
        }
        EXPECT_EQ(of[7], static_cast<float>(ballot >> 8));
      }
    }
  }
}

void check_shuffles(Device device) {
  TestKernels kernels(device);
  const std::vector<float> in = numbers(64, 3);
  const auto run = [&] { return kernels.block(BlockTest::shuffles, in, in.size() * 8); };
  std::vector<float> want;
  for (std::size_t t = 0; t < in.size(); ++t) {
    const std::size_t lane = t % 32, base = t - lane;
    want.push_back(in[base + (lane * 5 + 3) % 32]);
    want.push_back(in[base + (lane ^ 9)]);
    want.push_back(in[lane + 7 < 32 ? t + 7 : t]);
    want.push_back(in[lane >= 7 ? t - 7 : t]);
    want.push_back(in[base + (lane ^ 9)]);
    want.push_back(static_cast<float>(base + 5));
    want.push_back(static_cast<float>(base + 5));
    want.push_back(*std::max_element(&in[base], &in[base] + 32));
  }
  EXPECT_EQ(orders_that_differ<std::vector<float>>(want, run), 0);
}

void check_mma(Device device) {
  TestKernels kernels(device);
  for (const DType dtype : {DType::bf16, DType::f16}) {
    for (const bool loads : {false, true}) {
      const OwnedTensor a({16, 16}, dtype), b({16, 8}, dtype);
      const std::vector<float> va = numbers(256, 11), vb = numbers(128, 12), c = numbers(128, 13);
      std::vector<double> ra(256), rb(128);
      const auto round = [&](auto zero, const OwnedTensor& t, const std::vector<float>& from,
                             std::vector<double>& to) {
        using T = decltype(zero);
        for (std::size_t i = 0; i < from.size(); ++i) {
          t.tensor.span<T>()[i] = T(from[i]);
          to[i] = static_cast<double>(static_cast<float>(T(from[i])));
        }
      };
      const auto fill = [&](auto zero) {
        round(zero, a, va, ra);
        round(zero, b, vb, rb);
      };
      dtype == DType::bf16 ? fill(bf16{}) : fill(f16{});
      const std::vector<float> got = kernels.mma(dtype, loads, a, b, c);
      for (std::size_t row = 0; row < 16; ++row) {
        for (std::size_t column = 0; column < 8; ++column) {
          double sum = c[row * 8 + column];
          for (std::size_t k = 0; k < 16; ++k) sum += ra[row * 16 + k] * rb[k * 8 + column];
          EXPECT_NEAR(got[row * 8 + column], sum, 1e-5) << name_of(dtype) << row << "," << column;
        }
      }
    }
  }
}

class CudaBlock : public OnGpu {};
TEST_F(CudaBlock, SharesMemory) {
  check_shared_memory(kGpu);
}
TEST_F(CudaBlock, Reduces) {
  check_reductions(kGpu);
}
TEST_F(CudaBlock, Shuffles) {
  check_shuffles(kGpu);
}
TEST_F(CudaBlock, MultipliesMatrices) {
  check_mma(kGpu);
}
TEST(SimulatedBlock, SharesMemory) {
  check_shared_memory(kSimulated);
}
TEST(SimulatedBlock, Reduces) {
  check_reductions(kSimulated);
}
TEST(SimulatedBlock, Shuffles) {
  check_shuffles(kSimulated);
}
TEST(SimulatedBlock, MultipliesMatrices) {
  check_mma(kSimulated);
}

// ---- what is noticed ---------------------------------------------------------------------------

TEST(SimulatedBlock, NoticesMissingBarriers) {
  TestKernels kernels(kSimulated);
  const std::vector<float> in = numbers(256);
  const auto differing = [&](BlockTest test, BlockTest right) {
    return orders_that_differ<std::vector<float>>(
        expected(right, in), [&] { return kernels.block(test, in, in.size()); });
  };
  EXPECT_EQ(differing(BlockTest::reverse_without_sync, BlockTest::reverse), 6);
  EXPECT_EQ(differing(BlockTest::swap_neighbours_without_sync, BlockTest::swap_neighbours), 6);
  EXPECT_EQ(differing(BlockTest::copy_async_without_wait, BlockTest::copy_async), 6);
  // Reversing twice gives the input.
  EXPECT_EQ(orders_that_differ<std::vector<float>>(
                in, [&] { return kernels.block(BlockTest::reverse_early_overwrite, in, 256); }),
            6);
}

TEST(SimulatedBlock, RefusesDivergence) {
  TestKernels kernels(kSimulated);
  const std::vector<float> in = numbers(64);
  const std::vector<std::pair<BlockTest, std::string>> cases = {
      {BlockTest::half_the_warps_leave, "thread 32 has ended"},
      {BlockTest::half_the_lanes_leave, "thread 1 has ended"},
      {BlockTest::two_barriers, "waits for its block at block_kernels.cu:"},
      {BlockTest::barrier_and_shuffle, "waits for its warp at block_kernels.cu:"},
      {BlockTest::write_behind_shared_memory, "wrote behind its 256 bytes of shared memory"}};
  for (const auto& [test, part] : cases) {
    try {
      kernels.block(test, in, 64);
      ADD_FAILURE() << "no Error for test " << static_cast<int>(test);
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
    }
    // The next kernel does not suffer.
    EXPECT_EQ(kernels.block(BlockTest::reverse, in, 64), expected(BlockTest::reverse, in));
  }
}

TEST(SimulatedBlock, RefusesBlocksThatNoGpuRuns) {
  const auto nothing = [](const void*, cuda::HostThread&) {};
  EXPECT_THROW(cuda::run_blocks_on_host({}, 33, 0, nothing, nullptr), Error);
  EXPECT_THROW(cuda::run_blocks_on_host({}, 2048, 0, nothing, nullptr), Error);
  EXPECT_THROW(cuda::run_blocks_on_host({}, 32, 1 << 20, nothing, nullptr), Error);
  EXPECT_THROW(cuda::run_blocks_on_host({1, 65536, 1}, 32, 0, nothing, nullptr), Error);
  EXPECT_NO_THROW(cuda::run_blocks_on_host({2, 3, 4}, 32, 0, nothing, nullptr));
}

}  // namespace
}  // namespace neox::testing
