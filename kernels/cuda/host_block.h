#pragma once
// Thread blocks on the host: every GPU thread of a block is a fiber, switched where the threads
// wait for each other. Plain types only: included by .cuh and .cpp files.
//
// What a GPU leaves undefined is an Error here: a barrier or a warp operation that not all threads
// reach, a write behind the shared memory. Shared memory starts as NaN. Between two barriers
// threads run one after the other, in an order that tests choose: a kernel that forgets a barrier
// computes other results in another order.

#include <cstddef>
#include <cstdint>

#include "core/base/host_device.h"

namespace neox::cuda {

/// Where in the source threads wait, for messages; as a default argument, where the caller stands.
struct Place {
  const char* file;
  int line;
  NEOX_HOST_DEVICE static constexpr Place here(const char* at_file = __builtin_FILE(),
                                               int at_line = __builtin_LINE()) {
    return {at_file, at_line};
  }
};

/// Blocks of a grid; y and z up to 65535.
struct BlockGrid {
  std::int64_t x = 1, y = 1, z = 1;
};

/// Works on the operands of a warp's 32 lanes in their order, when all have arrived.
using WarpOperation = void (*)(void* const* operands);

/// One GPU thread.
struct HostThread {
  enum class State : std::uint8_t { ready, at_sync, at_warp_operation, ended };

  int thread = 0;   ///< in the block
  int threads = 0;  ///< of the block
  BlockGrid block, grid;
  std::byte* shared = nullptr;   ///< dynamic shared memory
  std::byte* scratch = nullptr;  ///< kHostScratchBytes, the block's
  void* fiber = nullptr;
  State state = State::ready;
  Place place{"", 0};
  WarpOperation operation = nullptr;
  void* operand = nullptr;
};

/// Static shared memory that Block's own reductions use.
inline constexpr std::size_t kHostScratchBytes = 1024;
/// Dynamic shared memory that a block of sm_90 can have beside it (sm_80: 64 KB less).
inline constexpr std::size_t kMaxSharedBytes = 227 * 1024 - kHostScratchBytes;

/// Waits for all threads of the block.
void host_sync(HostThread& thread, Place place);
/// Waits for the 32 threads of the warp; then `operation` runs once on all their operands.
void host_warp_operation(HostThread& thread, Place place, WarpOperation operation, void* operand);

/// A copy that is carried out when the thread waits for it, as late as a GPU may do it.
void host_copy_async(HostThread& thread, void* to, const void* from, std::size_t bytes,
                     std::size_t zeros_behind);
void host_commit_copies(HostThread& thread);
/// Carries out all committed groups but the newest `left`.
void host_wait_copies(HostThread& thread, int left);

/// Runs all blocks, one after the other. threads: a multiple of 32, up to 1024. Throws Error when
/// threads wait for each other for ever, naming where, and for writes behind the shared memory.
void run_blocks_on_host(BlockGrid grid, int threads, std::size_t shared_bytes,
                        void (*body)(const void* kernel, HostThread&), const void* kernel);

/// The order of blocks, of the warps of a block and of the threads of a warp between barriers.
/// Results must not depend on it. Of the calling host thread, `forward` at first.
enum class HostOrder : std::uint8_t { forward, backward, random };
void set_host_order(HostOrder order, std::uint64_t seed = 0);

}  // namespace neox::cuda
