#include "comm/mpi_internal.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <thread>
#include <unistd.h>

namespace neox {

void check_mpi(int code, const char* call, Collective operation, int peer) {
  if (code == MPI_SUCCESS) return;
  std::array<char, MPI_MAX_ERROR_STRING + 1> text{};
  int length = 0;
  MPI_Error_string(code, text.data(), &length);
  fail("{} failed in {}{}: {}", name_of(operation), call,
       peer < 0 ? std::string() : fmt::format(" with rank {}", peer),
       std::string_view(text.data(), static_cast<std::size_t>(length)));
}

MPI_Datatype mpi_type(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return MPI_FLOAT;
    case DType::f64:
      return MPI_DOUBLE;
    case DType::i8:
      return MPI_INT8_T;
    case DType::u8:
      return MPI_UINT8_T;
    case DType::i16:
      return MPI_INT16_T;
    case DType::u16:
      return MPI_UINT16_T;
    case DType::i32:
      return MPI_INT32_T;
    case DType::u32:
      return MPI_UINT32_T;
    case DType::i64:
      return MPI_INT64_T;
    case DType::u64:
      return MPI_UINT64_T;
    case DType::bf16:
    case DType::f16:
      break;
  }
  fail("MPI has no element type for {}", name_of(dtype));
}

MPI_Op mpi_op(ReduceOp op) {
  return op == ReduceOp::sum ? MPI_SUM : op == ReduceOp::max ? MPI_MAX : MPI_MIN;
}

void Backoff::pause() {
  // No sched_yield in between: next to a computing thread it waits for a whole time slice.
  constexpr int kTests = 16;
  constexpr std::int64_t kShortest = 10, kLongest = 2000, kShare = 32;  // microseconds; 1/32
  if (++tests_ <= kTests) return;
  const std::int64_t sleep = std::clamp(slept_us_ / kShare, kShortest, kLongest);
  std::this_thread::sleep_for(std::chrono::microseconds(sleep));
  slept_us_ += sleep;
}

bool test_all(std::span<MPI_Request> requests, Collective operation) {
  int done = 0;
  check_mpi(
      MPI_Testall(static_cast<int>(requests.size()), requests.data(), &done, MPI_STATUSES_IGNORE),
      "MPI_Testall", operation);
  return done != 0;
}

void use_short_slices() {
  prctl(PR_SET_TIMERSLACK, 1UL, 0UL, 0UL, 0UL);
  // Linux 6.12 and later: a thread that asks for short time slices runs soon after it wakes, also
  // on a core where another thread computes. Older kernels ignore or refuse it, which costs latency
  // only.
  struct {
    std::uint32_t size = 48, policy = SCHED_OTHER;
    std::uint64_t flags = 0;
    std::int32_t nice = 0;
    std::uint32_t priority = 0;
    std::uint64_t runtime = 100'000, deadline = 0, period = 0;  // nanoseconds
  } attributes;
  errno = 0;
  attributes.nice = getpriority(PRIO_PROCESS, 0);
  syscall(SYS_sched_setattr, 0, &attributes, 0);
}

}  // namespace neox
