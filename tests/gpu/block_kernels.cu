#include "kernels/cuda/tensor_core.cuh"
#include "tests/gpu/block_kernels.h"

namespace neox::testing {
namespace {

using cuda::Block;

struct Arrays {
  static constexpr int kThreads = 1024;
  const float* in;
  float* out;
};

template <bool Sync, bool Twice, int Offset>
struct Reverse : Arrays {
  NEOX_HOST_DEVICE void operator()(const Block& block) const {
    auto* memory = block.shared<float>(Offset);
    const int last = block.threads() - 1, i = block.thread();
    memory[i] = in[i];
    if (Sync) block.sync();
    float value = memory[last - i];
    if (Twice) {
      memory[i] = value;  // another thread may not have read it yet
      block.sync();
      value = memory[last - i];
    }
    out[i] = value;
  }
};

template <bool Sync>
struct SwapNeighbours : Arrays {
  NEOX_HOST_DEVICE void operator()(const Block& block) const {
    auto* memory = block.shared<float>();
    memory[block.thread()] = in[block.thread()];
    if (Sync) block.sync_warp();
    out[block.thread()] = memory[block.thread() ^ 1];
  }
};

template <bool Wait>
struct CopyAsync : Arrays {
  NEOX_HOST_DEVICE void operator()(const Block& block) const {
    auto* memory = block.shared<float>();
    const int i = block.thread();
    if (i % 4 == 0) cuda::copy_async(block, memory + i, in + i);
    cuda::commit_copies(block);
    // The last three of every four: zeros.
    if (i % 4 == 0) cuda::copy_async(block, memory + block.threads() + i, in + i, 4);
    cuda::commit_copies(block);
    if (Wait) cuda::wait_copies<1>(block);
    block.sync();
    const float value = memory[i];
    if (Wait) cuda::wait_copies<0>(block);
    block.sync();
    out[i] = value + memory[block.threads() + i];
  }
};

struct Reductions : Arrays {
  NEOX_HOST_DEVICE void operator()(const Block& block) const {
    const float value = in[block.thread()] + static_cast<float>(block.x());
    float both[2] = {value, -2.0f * value};
    block.sum(both);
    float* to = out + (block.x() * block.threads() + block.thread()) * 8;
    to[0] = block.sum(value);
    to[1] = static_cast<float>(block.sum(static_cast<double>(value)));
    to[2] = block.max(value, -1e30f);
    to[3] = both[0];
    to[4] = both[1];
    to[5] = static_cast<float>(block.warp());
    to[6] = static_cast<float>(block.lane());
    to[7] = static_cast<float>(block.ballot(value > 0.0f) >> 8);  // 24 bits are exact
  }
};

struct Shuffles : Arrays {
  NEOX_HOST_DEVICE void operator()(const Block& block) const {
    const float v = in[block.thread()];
    float* to = out + block.thread() * 8;
    to[0] = block.shuffle(v, block.lane() * 5 + 3);
    to[1] = block.shuffle_xor(v, 9);
    to[2] = block.shuffle_down(v, 7);
    to[3] = block.shuffle_up(v, 7);
    to[4] = static_cast<float>(block.shuffle_xor(static_cast<double>(v) + 0x1p-40, 9) - 0x1p-40);
    to[5] = static_cast<float>(block.shuffle(block.thread(), 5));
    to[6] = static_cast<float>(block.shuffle((std::int64_t{1} << 40) + block.thread(), 5) -
                               (std::int64_t{1} << 40));
    to[7] = block.max_warp(v);
  }
};

template <BlockTest Kind>
struct Broken : Arrays {
  NEOX_HOST_DEVICE void operator()(const Block& block) const {
    const bool odd = (Kind == BlockTest::half_the_lanes_leave ? block.lane() : block.warp()) % 2;
    if constexpr (Kind == BlockTest::half_the_warps_leave) {
      if (odd) return;
      block.sync();
    }
    if constexpr (Kind == BlockTest::half_the_lanes_leave) {
      if (odd) return;
      block.sync_warp();
    }
    if constexpr (Kind == BlockTest::two_barriers) {
      if (odd) {
        block.sync();
      } else {
        block.sync();
      }
    }
    if constexpr (Kind == BlockTest::barrier_and_shuffle) {
      if (block.lane() % 2 == 0) {
        block.sync();
      } else {
        out[0] = block.shuffle(in[0], 0);
      }
    }
    if constexpr (Kind == BlockTest::write_behind_shared_memory) {
      block.shared<float>()[block.threads() + block.thread() % 4] = 1.0f;
    }
  }
};

template <class T, bool Loads>
struct Mma {
  static constexpr int kThreads = 32;
  const T *a, *b;
  const float* c;
  float* d;

  NEOX_HOST_DEVICE static std::uint32_t pair(T low, T high) {
    return low.bits | static_cast<std::uint32_t>(high.bits) << 16;
  }
  NEOX_HOST_DEVICE void load(const Block& block, std::uint32_t (&fa)[4],
                             std::uint32_t (&fb)[2]) const {
    const int group = block.lane() / 4, member = block.lane() % 4;
    for (int i = 0; i < 4; ++i) {
      const T* from = a + (group + i % 2 * 8) * 16 + member * 2 + i / 2 * 8;
      fa[i] = pair(from[0], from[1]);
    }
    for (int i = 0; i < 2; ++i) {
      const T* from = b + (member * 2 + i * 8) * 8 + group;
      fb[i] = pair(from[0], from[8]);
    }
  }
  NEOX_HOST_DEVICE void load_through_shared(const Block& block, std::uint32_t (&fa)[4],
                                            std::uint32_t (&fb)[2]) const {
    T *sa = block.shared<T>(), *sb = sa + 16 * 16;  // B twice: four matrices are loaded
    for (int i = block.lane(); i < 256; i += 32) sa[i] = a[i];
    for (int i = block.lane(); i < 256; i += 32) sb[i] = b[i % 128];
    block.sync();
    const int row = block.lane() % 16, column = block.lane() / 16 * 8;
    cuda::load_matrices(block, fa, sa + row * 16 + column);
    std::uint32_t both[4];
    cuda::load_matrices<true>(block, both, sb + block.lane() * 8);
    fb[0] = both[0];
    fb[1] = both[1];
  }
  NEOX_HOST_DEVICE void operator()(const Block& block) const {
    std::uint32_t fa[4], fb[2];
    Loads ? load_through_shared(block, fa, fb) : load(block, fa, fb);
    const int group = block.lane() / 4, member = block.lane() % 4;
    float sum[4];
    for (int i = 0; i < 4; ++i) sum[i] = c[(group + i / 2 * 8) * 8 + member * 2 + i % 2];
    cuda::mma<T>(block, sum, fa, fb);
    for (int i = 0; i < 4; ++i) d[(group + i / 2 * 8) * 8 + member * 2 + i % 2] = sum[i];
  }
};

template <class Kernel>
void launch(const cuda::Launch& on, int threads, const float* in, float* out,
            std::int64_t blocks = 1, std::size_t more_shared = 0) {
  const auto shared = static_cast<std::size_t>(threads) * sizeof(float) + more_shared;
  cuda::launch_blocks(on, {blocks}, threads, shared, Kernel{{in, out}});
}

}  // namespace

void run_block_test(const cuda::Launch& on, BlockTest test, int threads, const float* in,
                    float* out) {
  switch (test) {
    case BlockTest::reverse:
      return launch<Reverse<true, false, 0>>(on, threads, in, out);
    case BlockTest::reverse_without_sync:
      return launch<Reverse<false, false, 0>>(on, threads, in, out);
    case BlockTest::reverse_early_overwrite:
      return launch<Reverse<true, true, 0>>(on, threads, in, out);
    case BlockTest::reverse_in_large_memory:
      return launch<Reverse<true, false, 65536>>(on, threads, in, out, 1, 65536);
    case BlockTest::swap_neighbours:
      return launch<SwapNeighbours<true>>(on, threads, in, out);
    case BlockTest::swap_neighbours_without_sync:
      return launch<SwapNeighbours<false>>(on, threads, in, out);
    case BlockTest::copy_async:
      return launch<CopyAsync<true>>(on, threads, in, out, 1, 4096);
    case BlockTest::copy_async_without_wait:
      return launch<CopyAsync<false>>(on, threads, in, out, 1, 4096);
    case BlockTest::reductions:
      return launch<Reductions>(on, threads, in, out, 3);
    case BlockTest::shuffles:
      return launch<Shuffles>(on, threads, in, out);
    case BlockTest::half_the_warps_leave:
      return launch<Broken<BlockTest::half_the_warps_leave>>(on, threads, in, out);
    case BlockTest::half_the_lanes_leave:
      return launch<Broken<BlockTest::half_the_lanes_leave>>(on, threads, in, out);
    case BlockTest::two_barriers:
      return launch<Broken<BlockTest::two_barriers>>(on, threads, in, out);
    case BlockTest::barrier_and_shuffle:
      return launch<Broken<BlockTest::barrier_and_shuffle>>(on, threads, in, out);
    case BlockTest::write_behind_shared_memory:
      return launch<Broken<BlockTest::write_behind_shared_memory>>(on, threads, in, out);
  }
}

void run_mma_test(const cuda::Launch& on, bool is_bf16, bool loads, const void* a, const void* b,
                  const float* c, float* d) {
  const auto with = [&](auto zero, auto through_shared) {
    using T = decltype(zero);
    cuda::launch_blocks(
        on, {}, 32, 1024,
        Mma<T, through_shared()>{static_cast<const T*>(a), static_cast<const T*>(b), c, d});
  };
  const auto typed = [&](auto zero) {
    loads ? with(zero, std::true_type{}) : with(zero, std::false_type{});
  };
  is_bf16 ? typed(bf16{}) : typed(f16{});
}

}  // namespace neox::testing
