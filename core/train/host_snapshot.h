#pragma once
// Copies of tensors in host memory, for writing them while the originals change or because they are
// a device's.

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "core/tensor/buffer.h"
#include "io/checkpoint/checkpoint.h"

namespace neox {

/// Used in turns: place(), fill(), and place() again when nobody reads the copies any more. fill()
/// may run in a thread of its own, and in another one wait() tells when the originals may change.
class HostSnapshot {
 public:
  /// Memory for the copies: pinned when `from` is a GPU, and touched page by page, so that the
  /// first fill() costs no more than the others and no memory is missing later.
  HostSnapshot(std::size_t bytes, Device from);
  /// What tensors need.
  static std::size_t bytes_for(std::span<const CheckpointTensor> tensors);

  /// Makes shard.local of every tensor point to where its copy will be. The originals are copied as
  /// they are after what `stream` has queued so far.
  void place(std::span<CheckpointTensor> tensors, Stream& stream);
  /// Makes the copies; returns when they are complete. Throws Error of the device.
  void fill();
  /// Returns when fill() is through, well or not, or was not due.
  void wait();

 private:
  struct Copy {
    Tensor from, to;
  };

  Buffer buffer_;
  Device device_;
  std::unique_ptr<Stream> stream_;  // the copies go beside the device's other work
  std::unique_ptr<Event> begin_;
  std::vector<Copy> copies_;
  std::mutex mutex_;
  std::condition_variable through_;
  bool due_ = false;
};

namespace testing_hooks {
/// Called by fill() before it copies, on its thread. Null outside tests.
extern std::atomic<void (*)()> before_fill;
}  // namespace testing_hooks

}  // namespace neox
