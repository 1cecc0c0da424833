// A program that fails in the way its first argument says; tests/app/faults_test.cpp runs it under
// mpirun with four ranks. Rank 2 is always the one at fault.

#include <atomic>
#include <csignal>
#include <new>
#include <string>
#include <unistd.h>

#include "comm/activity.h"
#include "core/tensor/buffer.h"
#include "core/train/program.h"

namespace {

using namespace neox;

constexpr int kFaulty = 2;

[[noreturn]] void compute_forever() {
  for (std::atomic<int> i = 0;;) ++i;
}

// Rank 2 does `fault`, the others wait for it in a message that never comes.
template <class F>
void fault_of_one(Communicator& world, Stream& stream, F fault) {
  Activity::set("forward", 7, 3);
  OwnedTensor x({16}, DType::f32);
  world.all_reduce(x, ReduceOp::sum, stream).wait(stream);
  if (world.rank() == kFaulty) {
    fault();
    return;
  }
  world.recv(x, kFaulty, stream).wait(stream);
}

void truncated_message(Communicator& world, Stream& stream) {
  OwnedTensor x({1000}, DType::f32), small({10}, DType::f32);
  if (world.rank() == 0) {
    world.send(x, kFaulty, stream).wait(stream);
  } else if (world.rank() == kFaulty) {
    world.recv(small, 0, stream).wait(stream);
  }
  world.barrier();
}

void different_calls(Communicator& world, Stream& stream) {
  Activity::set("backward", 9, 1);
  OwnedTensor x({16}, DType::f32);
  if (world.rank() == kFaulty) {
    world.barrier();
  } else {
    world.all_reduce(x, ReduceOp::sum, stream).wait(stream);
  }
}

int run(int argc, char** argv, MpiEnvironment& mpi, Watchdog& watchdog) {
  require(argc == 2, "give the name of one case");
  const std::string what = argv[1];
  Communicator& world = mpi.world();
  const auto stream = make_stream(Device{});
  const auto with = [&](auto fault) { fault_of_one(world, *stream, fault); };
  if (what == "wait") {  // for the test to do something to a rank
    with([] { pause(); });
  } else if (what == "compute") {
    watchdog.set_limit(1);
    with([] { compute_forever(); });
  } else if (what == "deadlock") {
    watchdog.set_limit(1);
    different_calls(world, *stream);
  } else if (what == "exit") {
    with([] { _exit(0); });
  } else if (what == "error") {
    with([] { fail("the disk is gone"); });
  } else if (what == "memory") {
    with([] { throw std::bad_alloc(); });
  } else if (what == "crash") {
    with([] { raise(SIGSEGV); });
  } else if (what == "mpi") {
    truncated_message(world, *stream);
  } else {
    fail("there is no case '{}'", what);
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  return neox::run_mpi_program("fault_cases", argc, argv, run);
}
