#pragma once

#include <cstddef>

#include "core/tensor/buffer.h"

namespace neox {

/// A stack of tensors inside one buffer. A new arena only measures: it hands out tensors without
/// memory (`data == nullptr`), for the dry-run backend, and records how much the program needs at
/// most. commit() allocates that; the same code then gets the same offsets with memory behind them.
class Arena {
 public:
  explicit Arena(Device device) : device_(device) {}

  /// A tensor at the top of the stack, 256-byte aligned; contents undefined. Throws Error when a
  /// committed arena is too small: the measuring pass and the run have taken different paths.
  Tensor take(Shape shape, DType dtype);

  std::size_t mark() const { return top_; }
  /// Gives back everything taken since `mark`.
  void release(std::size_t mark) { top_ = mark; }

  /// Most bytes ever in use.
  std::size_t high_water() const { return high_water_; }
  bool committed() const { return committed_; }
  /// Allocates high_water() bytes and leaves measuring mode. The stack must be empty.
  void commit() { commit(high_water_); }
  /// As commit(), with the measurement of another arena through which the same program runs.
  void commit(std::size_t bytes);
  Device device() const { return device_; }

 private:
  Device device_;
  Buffer buffer_;
  std::size_t top_ = 0;
  std::size_t high_water_ = 0;
  bool committed_ = false;
};

/// Gives back what was taken from an arena during its lifetime.
class ArenaScope {
 public:
  explicit ArenaScope(Arena& arena) : arena_(arena), mark_(arena.mark()) {}
  ~ArenaScope() { arena_.release(mark_); }
  ArenaScope(const ArenaScope&) = delete;
  ArenaScope& operator=(const ArenaScope&) = delete;

 private:
  Arena& arena_;
  std::size_t mark_;
};

}  // namespace neox
