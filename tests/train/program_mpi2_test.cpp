#include <array>
#include <unistd.h>

#include <gtest/gtest.h>

#include "core/base/error.h"
#include "core/train/program.h"

namespace neox {
namespace {

struct Outcome {
  int code;
  std::string err;
};

Outcome run(const MpiProgramBody& body) {
  std::string name = "neox_test";
  std::array<char*, 2> argv = {name.data(), nullptr};
  testing::internal::CaptureStderr();
  const int code = run_mpi_program("neox_test", 1, argv.data(), body);
  ::alarm(0);  // this process goes on
  return {code, testing::internal::GetCapturedStderr()};
}

TEST(RunMpiProgram, AllRanksFailAlike) {
  int rank = -1;
  const Outcome outcome = run([&](int, char**, MpiEnvironment& mpi, Watchdog&) -> int {
    rank = mpi.rank();
    fail("no key");
  });
  EXPECT_EQ(outcome.code, 1);
  EXPECT_EQ(outcome.err, rank == 0 ? "neox_test: no key\n" : "");
}

TEST(RunMpiProgram, AnAgreedErrorIsPrintedOnce) {
  int rank = -1;
  const Outcome outcome = run([&](int, char**, MpiEnvironment& mpi, Watchdog&) -> int {
    rank = mpi.rank();
    agree(mpi.world(), "opening", rank == 1 ? "disk on fire" : "");
    return 0;
  });
  EXPECT_EQ(outcome.code, 1);
  if (rank == 0) {
    EXPECT_NE(outcome.err.find("disk on fire"), std::string::npos);
  } else {
    EXPECT_EQ(outcome.err, "");
  }
}

TEST(RunMpiProgram, DifferentFailuresAreAllPrinted) {
  int rank = -1;
  const Outcome outcome = run([&](int, char**, MpiEnvironment& mpi, Watchdog&) -> int {
    rank = mpi.rank();
    fail("reason {}", rank);
  });
  EXPECT_EQ(outcome.code, 1);
  EXPECT_EQ(outcome.err, fmt::format("neox_test: rank {0}: reason {0}\n", rank));
}

TEST(RunMpiProgram, SuccessOnAllRanks) {
  const Outcome outcome = run([](int, char**, MpiEnvironment& mpi, Watchdog&) {
    mpi.world().barrier();
    return 0;
  });
  EXPECT_EQ(outcome.code, 0);
  EXPECT_EQ(outcome.err, "");
}

}  // namespace
}  // namespace neox
