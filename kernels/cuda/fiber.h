#pragma once
// A function that can be left in the middle and resumed later, on a stack of its own.

#include <csetjmp>
#include <cstddef>
#include <exception>
#include <functional>
#include <ucontext.h>

namespace neox {

/// Runs one function after the other. Destroying a fiber in the middle of a function does not
/// unwind its stack: functions that may be given up own nothing.
class Fiber {
 public:
  Fiber();
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  /// The next function; the previous one must have returned.
  void start(std::function<void()> function);
  /// Runs the function until it yields (true) or returns (false). Throws what it throws.
  bool resume();
  /// Called by the function: back to resume().
  void yield();

 private:
  static void enter(unsigned high, unsigned low);
  void work();

  std::byte* stack_ = nullptr;
  std::function<void()> function_;
  std::exception_ptr error_;
  bool entered_ = false, running_ = false;
  ucontext_t entry_{};
  // Switched with these, since swapcontext asks the kernel for the signal mask every time.
  std::jmp_buf inside_, outside_;
};

}  // namespace neox
