#include "core/train/program.h"

#include <array>
#include <cstdio>
#include <filesystem>
#include <new>
#include <stdexcept>
#include <sys/wait.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/base/error.h"
#include "core/base/exit_code.h"

namespace neox {
namespace {

using testing::HasSubstr;

struct Outcome {
  int code;
  std::string err;
};

Outcome run(const ProgramBody& body, std::vector<std::string> arguments = {}) {
  arguments.insert(arguments.begin(), "neox_test");
  std::vector<char*> argv;
  for (auto& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  testing::internal::CaptureStderr();
  const int code = run_program("neox_test", static_cast<int>(arguments.size()), argv.data(), body);
  set_verbose_errors(false);
  return {code, testing::internal::GetCapturedStderr()};
}

TEST(RunProgram, PassesArgumentsAndTheExitCode) {
  const Outcome outcome = run(
      [](int argc, char** argv) {
        EXPECT_EQ(argc, 3);
        EXPECT_STREQ(argv[2], "b");
        return 7;
      },
      {"a", "b"});
  EXPECT_EQ(outcome.code, 7);
  EXPECT_EQ(outcome.err, "");
}

TEST(RunProgram, ErrorIsOneLine) {
  const Outcome outcome = run([](int, char**) -> int { fail("file {} is empty", "x.bin"); });
  EXPECT_EQ(outcome.code, 1);
  EXPECT_EQ(outcome.err, "neox_test: file x.bin is empty\n");
}

TEST(RunProgram, VerboseAddsThePlace) {
  const auto body = [](int, char**) -> int { fail("no"); };
  for (const char* option : {"--verbose", "--logging.verbose"}) {
    EXPECT_THAT(run(body, {option}).err,
                testing::MatchesRegex("neox_test: no \\(.*program_test\\.cpp:[0-9]+, .*\\)\n"));
  }
  EXPECT_THAT(run([](int, char**) -> int {
                set_verbose_errors(true);  // as a configuration file would say
                fail("no");
              }).err,
              HasSubstr("program_test.cpp:"));
}

TEST(RunProgram, OtherExceptions) {
  EXPECT_EQ(run([](int, char**) -> int { throw std::runtime_error("odd"); }).err,
            "neox_test: internal error: odd\n");
  EXPECT_THAT(run([](int, char**) -> int { throw std::bad_alloc(); }).err,
              testing::StartsWith("neox_test: out of memory: "));
  const Outcome outcome = run([](int, char**) -> int { throw 3; });
  EXPECT_THAT(outcome.err, HasSubstr("unknown type"));
  EXPECT_EQ(outcome.code, 1);
}

TEST(RunMpiProgram, OneRankIsNotNamed) {
  std::string name = "neox_test";
  std::array<char*, 2> argv = {name.data(), nullptr};
  testing::internal::CaptureStderr();
  const int code = run_mpi_program("neox_test", 1, argv.data(),
                                   [](int, char**, MpiEnvironment& mpi, Watchdog&) -> int {
                                     EXPECT_EQ(mpi.size(), 1);
                                     fail("no");
                                   });
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "neox_test: no\n");
  EXPECT_EQ(code, 1);
}

// Run by the next test under mpirun: it ends the job.
TEST(RunMpiProgram, DISABLED_RankOneFails) {
  std::string name = "neox_test";
  std::array<char*, 2> argv = {name.data(), nullptr};
  run_mpi_program("neox_test", 1, argv.data(),
                  [](int, char**, MpiEnvironment& mpi, Watchdog&) -> int {
                    if (mpi.rank() == 1) fail("only I know");
                    mpi.world().barrier();
                    return 0;
                  });
}

TEST(RunMpiProgram, ARankThatFailsAloneEndsTheJob) {
  const std::string self = std::filesystem::read_symlink("/proc/self/exe").string();
  // MPI_Init of this process left settings that mpirun takes for those of a job around it.
  const std::string command =
      "for name in $(env | cut -d= -f1 | grep -E '^(PMIX_|OMPI_MCA_(ess|pmix|orte))'); do "
      "unset $name; done; timeout 60 mpirun -np 2 --oversubscribe '" +
      self + "' --gtest_also_run_disabled_tests --gtest_filter='*DISABLED_RankOneFails' 2>&1";
  FILE* pipe = ::popen(command.c_str(), "r");
  ASSERT_NE(pipe, nullptr);
  std::string output;
  std::array<char, 4096> buffer;
  while (const auto count = std::fread(buffer.data(), 1, buffer.size(), pipe)) {
    output.append(buffer.data(), count);
  }
  const int status = ::pclose(pipe);
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), kExitLostRanks) << output;  // 124: it had to be stopped
  EXPECT_THAT(output, HasSubstr("neox_test: rank 1: only I know\n"));
}

}  // namespace
}  // namespace neox
