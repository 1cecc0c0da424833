#include "kernels/cuda/host_block.h"

#include <algorithm>
#include <cstring>
#include <deque>
#include <memory>
#include <numeric>
#include <string_view>
#include <vector>

#include "core/base/error.h"
#include "kernels/cuda/fiber.h"

namespace neox::cuda {
namespace {

using State = HostThread::State;
constexpr std::size_t kWarpLanes = 32;
constexpr std::size_t kGuardBytes = 128;
constexpr std::byte kGuard{0xa5}, kUnwritten{0xff};  // NaN in every float dtype

struct OrderSetting {
  HostOrder order = HostOrder::forward;
  std::uint64_t random = 0;
};
thread_local OrderSetting host_order;

/// The numbers below n in the order that was set.
void arrange(std::vector<std::size_t>& items, std::size_t n) {
  items.resize(n);
  std::iota(items.begin(), items.end(), std::size_t{0});
  if (host_order.order == HostOrder::backward) std::reverse(items.begin(), items.end());
  if (host_order.order != HostOrder::random) return;
  for (std::size_t i = n; i > 1; --i) {
    host_order.random = host_order.random * 6364136223846793005u + 1442695040888963407u;
    std::swap(items[i - 1], items[(host_order.random >> 33) % i]);
  }
}

bool same_place(Place a, Place b) {
  return a.line == b.line && (a.file == b.file || std::strcmp(a.file, b.file) == 0);
}

std::string describe(const HostThread& thread) {
  const std::string_view path = thread.place.file;
  const std::string_view file = path.substr(path.rfind('/') + 1);
  switch (thread.state) {
    case State::at_sync:
      return fmt::format("thread {} waits for its block at {}:{}", thread.thread, file,
                         thread.place.line);
    case State::at_warp_operation:
      return fmt::format("thread {} waits for its warp at {}:{}", thread.thread, file,
                         thread.place.line);
    case State::ended:
      return fmt::format("thread {} has ended", thread.thread);
    case State::ready:
      break;
  }
  return fmt::format("thread {} runs", thread.thread);
}

struct PendingCopy {
  void* to;
  const void* from;
  std::size_t bytes, zeros_behind;
};

/// A thread and what only the scheduler knows of it.
struct Lane {
  HostThread thread;
  Fiber fiber;
  std::deque<std::vector<PendingCopy>> committed;
  std::vector<PendingCopy> copies;
};

Lane& lane_of(HostThread& thread) {
  return *static_cast<Lane*>(thread.fiber);
}

class BlockRunner {
 public:
  void run(BlockGrid grid, int threads, std::size_t shared_bytes,
           void (*body)(const void*, HostThread&), const void* kernel) {
    prepare(threads, shared_bytes);
    std::vector<std::size_t> blocks;
    arrange(blocks, static_cast<std::size_t>(grid.x * grid.y * grid.z));
    for (const std::size_t at : blocks) {
      const auto i = static_cast<std::int64_t>(at);
      const BlockGrid block{i % grid.x, i / grid.x % grid.y, i / grid.x / grid.y};
      start_block(block, grid, body, kernel);
      run_block();
      check_guard(block);
    }
  }

 private:
  void prepare(int threads, std::size_t shared_bytes) {
    const auto n = static_cast<std::size_t>(threads);
    while (lanes_.size() < n) lanes_.push_back(std::make_unique<Lane>());
    threads_ = n;
    shared_bytes_ = shared_bytes;
    shared_.resize(shared_bytes + 2 * kGuardBytes);  // one of them to align the start
  }

  std::byte* shared() {
    const auto start = reinterpret_cast<std::uintptr_t>(shared_.data());
    return shared_.data() + (kGuardBytes - start % kGuardBytes) % kGuardBytes;
  }

  void start_block(BlockGrid block, BlockGrid grid, void (*body)(const void*, HostThread&),
                   const void* kernel) {
    std::fill_n(shared(), shared_bytes_, kUnwritten);
    std::fill_n(shared() + shared_bytes_, kGuardBytes, kGuard);
    std::fill(std::begin(scratch_), std::end(scratch_), kUnwritten);
    for (std::size_t i = 0; i < threads_; ++i) {
      Lane& lane = *lanes_[i];
      lane.copies.clear();
      lane.committed.clear();
      lane.thread = HostThread{};
      lane.thread.thread = static_cast<int>(i);
      lane.thread.threads = static_cast<int>(threads_);
      lane.thread.block = block;
      lane.thread.grid = grid;
      lane.thread.shared = shared();
      lane.thread.scratch = scratch_;
      lane.thread.fiber = &lane;
      lane.fiber.start([&thread = lane.thread, body, kernel] { body(kernel, thread); });
    }
  }

  void run_block() {
    const std::size_t warps = threads_ / kWarpLanes;
    bool moved = true;
    while (moved) {
      moved = false;
      arrange(warp_order_, warps);
      for (const std::size_t warp : warp_order_) {
        if (!all_of_warp(warp, State::ready)) continue;
        moved = true;
        run_warp(warp);
      }
      if (!moved) moved = release_sync();
    }
  }

  HostThread& thread(std::size_t i) { return lanes_[i]->thread; }

  bool all_of_warp(std::size_t warp, State state) {
    // The lanes of a warp become ready together.
    return thread(warp * kWarpLanes).state == state;
  }

  /// Runs the threads of a warp until all of them wait or have ended.
  void run_warp(std::size_t warp) {
    const std::size_t first = warp * kWarpLanes;
    arrange(lane_order_, kWarpLanes);
    for (const std::size_t i : lane_order_) {
      Lane& lane = *lanes_[first + i];
      if (!lane.fiber.resume()) lane.thread.state = State::ended;
    }
    finish_warp_operation(first);
  }

  void finish_warp_operation(std::size_t first) {
    const HostThread* waiting = nullptr;
    void* operands[kWarpLanes];
    for (std::size_t i = 0; i < kWarpLanes; ++i) {
      const HostThread& lane = thread(first + i);
      operands[i] = lane.operand;
      if (lane.state == State::at_warp_operation) waiting = &lane;
    }
    if (waiting == nullptr) return;
    for (std::size_t i = 0; i < kWarpLanes; ++i) {
      const HostThread& lane = thread(first + i);
      if (lane.state == State::at_warp_operation && lane.operation == waiting->operation &&
          same_place(lane.place, waiting->place)) {
        continue;
      }
      fail_divergence(*waiting, lane);
    }
    if (waiting->operation != nullptr) waiting->operation(operands);
    for (std::size_t i = 0; i < kWarpLanes; ++i) thread(first + i).state = State::ready;
  }

  /// True when all threads waited at one barrier; false when all have ended.
  bool release_sync() {
    const HostThread& first = thread(0);
    for (std::size_t i = 1; i < threads_; ++i) {
      const HostThread& other = thread(i);
      const bool same = other.state == first.state &&
                        (first.state == State::ended || same_place(other.place, first.place));
      if (!same) fail_divergence(first, other);
    }
    if (first.state == State::ended) return false;
    for (std::size_t i = 0; i < threads_; ++i) thread(i).state = State::ready;
    return true;
  }

  [[noreturn]] static void fail_divergence(const HostThread& a, const HostThread& b) {
    fail("internal error: threads of block ({}, {}, {}) wait for each other for ever: {}, {}",
         a.block.x, a.block.y, a.block.z, describe(a), describe(b));
  }

  void check_guard(BlockGrid block) {
    const std::byte* guard = shared() + shared_bytes_;
    if (std::all_of(guard, guard + kGuardBytes, [](std::byte b) { return b == kGuard; })) return;
    fail("internal error: block ({}, {}, {}) wrote behind its {} bytes of shared memory", block.x,
         block.y, block.z, shared_bytes_);
  }

  std::vector<std::unique_ptr<Lane>> lanes_;
  std::vector<std::byte> shared_;
  alignas(16) std::byte scratch_[kHostScratchBytes]{};
  std::vector<std::size_t> warp_order_, lane_order_;
  std::size_t threads_ = 0, shared_bytes_ = 0;
};

void carry_out(const std::vector<PendingCopy>& copies) {
  for (const PendingCopy& copy : copies) {
    if (copy.bytes > 0) std::memcpy(copy.to, copy.from, copy.bytes);
    std::memset(static_cast<std::byte*>(copy.to) + copy.bytes, 0, copy.zeros_behind);
  }
}

}  // namespace

void host_sync(HostThread& thread, Place place) {
  thread.state = State::at_sync;
  thread.place = place;
  lane_of(thread).fiber.yield();
}

void host_warp_operation(HostThread& thread, Place place, WarpOperation operation, void* operand) {
  thread.state = State::at_warp_operation;
  thread.place = place;
  thread.operation = operation;
  thread.operand = operand;
  lane_of(thread).fiber.yield();
}

void host_copy_async(HostThread& thread, void* to, const void* from, std::size_t bytes,
                     std::size_t zeros_behind) {
  lane_of(thread).copies.push_back({to, from, bytes, zeros_behind});
}

void host_commit_copies(HostThread& thread) {
  Lane& lane = lane_of(thread);
  lane.committed.push_back(std::move(lane.copies));
  lane.copies.clear();
}

void host_wait_copies(HostThread& thread, int left) {
  auto& committed = lane_of(thread).committed;
  while (committed.size() > static_cast<std::size_t>(left)) {
    carry_out(committed.front());
    committed.pop_front();
  }
}

void run_blocks_on_host(BlockGrid grid, int threads, std::size_t shared_bytes,
                        void (*body)(const void* kernel, HostThread&), const void* kernel) {
  require(threads > 0 && threads <= 1024 && threads % 32 == 0,
          "internal error: a block of {} threads; it must be a multiple of 32, up to 1024",
          threads);
  require(shared_bytes <= kMaxSharedBytes,
          "internal error: a block asks for {} bytes of shared memory, a GPU has {}", shared_bytes,
          kMaxSharedBytes);
  require(grid.x <= 0x7fffffff && grid.y <= 65535 && grid.z <= 65535,
          "internal error: a grid of {} x {} x {} blocks is more than a GPU takes", grid.x, grid.y,
          grid.z);
  // Kept between launches: their stacks have been touched. Given up after an error, which leaves
  // threads in the middle.
  thread_local std::unique_ptr<BlockRunner> runner;
  if (runner == nullptr) runner = std::make_unique<BlockRunner>();
  try {
    runner->run(grid, threads, shared_bytes, body, kernel);
  } catch (...) {
    runner.reset();
    throw;
  }
}

void set_host_order(HostOrder order, std::uint64_t seed) {
  host_order = {order, seed * 0x9e3779b97f4a7c15u + 1};
}

}  // namespace neox::cuda
