#pragma once
// Kernels whose threads work together: a kernel is a functor
//   struct Kernel {
//     static constexpr int kThreads = 256;   // the most threads of a block
//     static constexpr int kMinBlocks = 2;   // optional: blocks to fit on a multiprocessor
//     NEOX_HOST_DEVICE void operator()(const Block& block) const;
//   };
// started by launch_blocks. On a GPU every member of Block is an instruction or an index; on a
// simulated device the threads are fibers (host_block.h).
//
// Threads of a block form a line. All threads of a block reach every sync(), all 32 of a warp every
// warp operation. Every thread gets the same bits from a reduction, and the same in every run.

#include <cmath>
#include <type_traits>

#include <cuda_runtime_api.h>

#include "kernels/cuda/host_block.h"
#include "kernels/cuda/kernel_launch.h"

#ifdef __CUDA_ARCH__
#define NEOX_DEVICE_OR_HOST(device, host) device
/// Before a loop of constant length whose index picks registers.
#define NEOX_UNROLL _Pragma("unroll")
#else
#define NEOX_DEVICE_OR_HOST(device, host) host
#define NEOX_UNROLL
#endif

namespace neox::cuda {

inline constexpr int kWarp = 32;
inline constexpr unsigned kAllLanes = 0xffffffffu;

class Block {
 public:
  NEOX_HOST_DEVICE explicit Block(HostThread* host) : host_(host) {}

  // ---- where this thread is
  NEOX_HOST_DEVICE int thread() const {
    return NEOX_DEVICE_OR_HOST(static_cast<int>(threadIdx.x), host_->thread);
  }
  NEOX_HOST_DEVICE int threads() const {
    return NEOX_DEVICE_OR_HOST(static_cast<int>(blockDim.x), host_->threads);
  }
  NEOX_HOST_DEVICE int lane() const { return thread() % kWarp; }
  NEOX_HOST_DEVICE int warp() const { return thread() / kWarp; }
  NEOX_HOST_DEVICE int warps() const { return threads() / kWarp; }
  NEOX_HOST_DEVICE std::int64_t x() const {
    return NEOX_DEVICE_OR_HOST(std::int64_t{blockIdx.x}, host_->block.x);
  }
  NEOX_HOST_DEVICE std::int64_t y() const {
    return NEOX_DEVICE_OR_HOST(std::int64_t{blockIdx.y}, host_->block.y);
  }
  NEOX_HOST_DEVICE std::int64_t z() const {
    return NEOX_DEVICE_OR_HOST(std::int64_t{blockIdx.z}, host_->block.z);
  }
  /// Blocks of the grid.
  NEOX_HOST_DEVICE std::int64_t grid_x() const {
    return NEOX_DEVICE_OR_HOST(std::int64_t{gridDim.x}, host_->grid.x);
  }
  NEOX_HOST_DEVICE std::int64_t grid_y() const {
    return NEOX_DEVICE_OR_HOST(std::int64_t{gridDim.y}, host_->grid.y);
  }

  /// The dynamic shared memory from a byte on; it starts at a multiple of 128 bytes.
  template <class T>
  NEOX_HOST_DEVICE T* shared(std::size_t byte = 0) const {
#ifdef __CUDA_ARCH__
    extern __shared__ __align__(128) unsigned char dynamic_shared[];
    return reinterpret_cast<T*>(dynamic_shared + byte);
#else
    return reinterpret_cast<T*>(host_->shared + byte);
#endif
  }

  // ---- waiting
  /// Shared and global memory that the block's threads wrote before is seen by all of them after.
  NEOX_HOST_DEVICE void sync([[maybe_unused]] Place place = Place::here()) const {
    NEOX_DEVICE_OR_HOST(__syncthreads(), host_sync(*host_, place));
  }
  /// The same for the threads of a warp.
  NEOX_HOST_DEVICE void sync_warp([[maybe_unused]] Place place = Place::here()) const {
    NEOX_DEVICE_OR_HOST(__syncwarp(), host_warp_operation(*host_, place, nullptr, nullptr));
  }

  // ---- values of other lanes: T is a 32- or 64-bit integer, float or double
  /// The value that lane `source` % 32 passes.
  template <class T>
  NEOX_HOST_DEVICE T shuffle(T value, int source,
                             [[maybe_unused]] Place place = Place::here()) const {
    return NEOX_DEVICE_OR_HOST(__shfl_sync(kAllLanes, value, source),
                               exchange(value, source & 31, place));
  }
  /// The value of lane `lane() ^ mask`.
  template <class T>
  NEOX_HOST_DEVICE T shuffle_xor(T value, int mask,
                                 [[maybe_unused]] Place place = Place::here()) const {
    return NEOX_DEVICE_OR_HOST(__shfl_xor_sync(kAllLanes, value, mask),
                               exchange(value, lane() ^ mask, place));
  }
  /// The value of lane `lane() + distance`; where there is none, the own value.
  template <class T>
  NEOX_HOST_DEVICE T shuffle_down(T value, int distance,
                                  [[maybe_unused]] Place place = Place::here()) const {
    return NEOX_DEVICE_OR_HOST(
        __shfl_down_sync(kAllLanes, value, static_cast<unsigned>(distance)),
        exchange(value, lane() + distance < kWarp ? lane() + distance : lane(), place));
  }
  /// The value of lane `lane() - distance`; where there is none, the own value.
  template <class T>
  NEOX_HOST_DEVICE T shuffle_up(T value, int distance,
                                [[maybe_unused]] Place place = Place::here()) const {
    return NEOX_DEVICE_OR_HOST(
        __shfl_up_sync(kAllLanes, value, static_cast<unsigned>(distance)),
        exchange(value, lane() >= distance ? lane() - distance : lane(), place));
  }
  /// Bit i tells whether lane i passes true.
  NEOX_HOST_DEVICE unsigned ballot(bool flag, [[maybe_unused]] Place place = Place::here()) const {
#ifdef __CUDA_ARCH__
    return __ballot_sync(kAllLanes, flag);
#else
    unsigned bits = flag ? 1u << lane() : 0u;
    for (int mask = kWarp / 2; mask > 0; mask /= 2) bits |= exchange(bits, lane() ^ mask, place);
    return bits;
#endif
  }

  // ---- reductions; op(a, b) must be commutative
  template <class T, class Op>
  NEOX_HOST_DEVICE T reduce_warp(T value, Op op, Place place = Place::here()) const {
    NEOX_UNROLL
    for (int mask = kWarp / 2; mask > 0; mask /= 2) {
      value = op(value, shuffle_xor(value, mask, place));
    }
    return value;
  }
  /// values[i] over all threads of the block, for each i < N; `identity` is op's.
  template <int N, class T, class Op>
  NEOX_HOST_DEVICE void reduce(T (&values)[N], T identity, Op op,
                               Place place = Place::here()) const {
    static_assert(sizeof(T) * N * kWarp <= kHostScratchBytes);
    NEOX_UNROLL
    for (int i = 0; i < N; ++i) values[i] = reduce_warp(values[i], op, place);
    if (warps() == 1) return;
    T* partial = scratch<T>();
    if (lane() == 0) {
      NEOX_UNROLL
      for (int i = 0; i < N; ++i) partial[i * kWarp + warp()] = values[i];
    }
    sync(place);
    NEOX_UNROLL
    for (int i = 0; i < N; ++i) {
      values[i] = reduce_warp(lane() < warps() ? partial[i * kWarp + lane()] : identity, op, place);
    }
    sync(place);  // the next reduction writes there
  }

  template <class T>
  NEOX_HOST_DEVICE T sum_warp(T value, Place place = Place::here()) const {
    return reduce_warp(value, Sum{}, place);
  }
  /// NaN is ignored unless all are.
  template <class T>
  NEOX_HOST_DEVICE T max_warp(T value, Place place = Place::here()) const {
    return reduce_warp(value, Max{}, place);
  }
  template <class T>
  NEOX_HOST_DEVICE T sum(T value, Place place = Place::here()) const {
    T values[1] = {value};
    reduce(values, T{}, Sum{}, place);
    return values[0];
  }
  /// Several sums with the barriers of one.
  template <int N, class T>
  NEOX_HOST_DEVICE void sum(T (&values)[N], Place place = Place::here()) const {
    reduce(values, T{}, Sum{}, place);
  }
  /// NaN is ignored unless all are; `lowest` is no larger than any value.
  template <class T>
  NEOX_HOST_DEVICE T max(T value, T lowest, Place place = Place::here()) const {
    T values[1] = {value};
    reduce(values, lowest, Max{}, place);
    return values[0];
  }

  struct Sum {
    template <class T>
    NEOX_HOST_DEVICE T operator()(T a, T b) const {
      return a + b;
    }
  };
  struct Max {
    template <class T>
    NEOX_HOST_DEVICE T operator()(T a, T b) const {
      // Not a < b ? b : a, which does not commute when one is NaN.
      if constexpr (std::is_same_v<T, float>) return fmaxf(a, b);
      if constexpr (std::is_same_v<T, double>) return fmax(a, b);
      if constexpr (!std::is_floating_point_v<T>) return a < b ? b : a;
    }
  };

  /// What warp operations of other headers need (tensor_core.cuh).
  HostThread& host() const {
    return *host_;
  }

 private:
  template <class T>
  NEOX_HOST_DEVICE T* scratch() const {
#ifdef __CUDA_ARCH__
    __shared__ __align__(16) unsigned char memory[kHostScratchBytes];
    return reinterpret_cast<T*>(memory);
#else
    return reinterpret_cast<T*>(host_->scratch);
#endif
  }

  template <class T>
  struct Exchange {
    T value;
    int source;
    T result;
  };
  template <class T>
  T exchange(T value, int source, Place place) const {
    Exchange<T> mine{value, source, value};
    const auto all = [](void* const* operands) {
      for (int i = 0; i < kWarp; ++i) {
        auto& to = *static_cast<Exchange<T>*>(operands[i]);
        to.result = static_cast<const Exchange<T>*>(operands[to.source])->value;
      }
    };
    host_warp_operation(*host_, place, all, &mine);
    return mine.result;
  }

  HostThread* host_;  // null on a GPU
};

template <class Kernel>
constexpr int min_blocks() {
  if constexpr (requires { Kernel::kMinBlocks; }) {
    return Kernel::kMinBlocks;
  } else {
    return 1;
  }
}

template <class Kernel>
__global__ void __launch_bounds__(Kernel::kThreads, min_blocks<Kernel>())
    block_kernel(const __grid_constant__ Kernel kernel) {
  kernel(Block(nullptr));
}

/// Runs a kernel on `grid` blocks of `threads` (a multiple of 32, up to Kernel::kThreads) with so
/// many bytes of dynamic shared memory. Nothing for an empty grid. The caller checks
/// cudaGetLastError().
template <class Kernel>
void launch_blocks(const Launch& launch, BlockGrid grid, int threads, std::size_t shared_bytes,
                   const Kernel& kernel) {
  if (grid.x <= 0 || grid.y <= 0 || grid.z <= 0) return;
  if (launch.on_host) {
    const auto body = [](const void* of, HostThread& thread) {
      (*static_cast<const Kernel*>(of))(Block(&thread));
    };
    return run_blocks_on_host(grid, threads, shared_bytes, body, &kernel);
  }
  constexpr std::size_t kAlwaysThere = 48 * 1024;
  if (shared_bytes > kAlwaysThere &&
      cudaFuncSetAttribute(block_kernel<Kernel>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                           static_cast<int>(shared_bytes)) != cudaSuccess) {
    return;  // the caller finds the error
  }
  const dim3 blocks(static_cast<unsigned>(grid.x), static_cast<unsigned>(grid.y),
                    static_cast<unsigned>(grid.z));
  block_kernel<Kernel><<<blocks, static_cast<unsigned>(threads), shared_bytes,
                         static_cast<cudaStream_t>(launch.stream)>>>(kernel);
}

}  // namespace neox::cuda
