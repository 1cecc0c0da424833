#include "kernels/cuda/fiber.h"

#include <atomic>
#include <cstdint>
#include <sys/mman.h>
#include <unistd.h>
#include <utility>

#include "core/base/error.h"

namespace neox {
namespace {

constexpr std::size_t kStackBytes = std::size_t{256}
                                    << 10;  // pages that are never touched cost nothing

std::size_t page_bytes() {
  static const auto bytes = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  return bytes;
}

}  // namespace

Fiber::Fiber() {
  const std::size_t bytes = kStackBytes + page_bytes();
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
  require(memory != MAP_FAILED, "out of memory: no stack for a simulated GPU thread");
  stack_ = static_cast<std::byte*>(memory);
  require(mprotect(stack_, page_bytes(), PROT_NONE) == 0,  // an overflow ends the program at once
          "internal error: the stack of a simulated GPU thread cannot be protected");
}

Fiber::~Fiber() {
  munmap(stack_, kStackBytes + page_bytes());
}

void Fiber::start(std::function<void()> function) {
  require(!running_, "internal error: a fiber was started twice");
  function_ = std::move(function);
  running_ = true;
}

bool Fiber::resume() {
  if (_setjmp(outside_) == 0) {
    if (entered_) _longjmp(inside_, 1);
    entered_ = true;
    getcontext(&entry_);
    // Tops of stacks a page apart would all fall in the same lines of the first cache.
    static std::atomic<std::size_t> made{0};
    entry_.uc_stack.ss_sp = stack_ + page_bytes();
    entry_.uc_stack.ss_size = kStackBytes - made.fetch_add(1) % 64 * 64;
    entry_.uc_link = nullptr;
    const auto self = reinterpret_cast<std::uintptr_t>(this);
    makecontext(&entry_, reinterpret_cast<void (*)()>(&Fiber::enter), 2,
                static_cast<unsigned>(self >> 32), static_cast<unsigned>(self));
    setcontext(&entry_);
  }
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
  return running_;
}

void Fiber::yield() {
  if (_setjmp(inside_) == 0) _longjmp(outside_, 1);
}

void Fiber::enter(unsigned high, unsigned low) {
  const std::uintptr_t self = std::uintptr_t{high} << 32 | low;
  reinterpret_cast<Fiber*>(self)->work();
}

void Fiber::work() {
  for (;;) {
    try {
      function_();
    } catch (...) {
      error_ = std::current_exception();
    }
    running_ = false;
    yield();
  }
}

}  // namespace neox
