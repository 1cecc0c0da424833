#include "core/train/program.h"

#include <array>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <new>
#include <string_view>
#include <thread>
#include <unistd.h>

#include <fmt/format.h>
#include <mpi.h>

#include "core/base/error.h"
#include "core/base/exit_code.h"
#include "core/base/log.h"
#include "core/base/version.h"

namespace neox {
namespace {

constexpr std::chrono::seconds kWaitForOthers{2};
constexpr unsigned kSecondsToLeave = 4;

bool verbose_errors = false;

void look_for_verbose(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    if (argument == "--verbose" || argument == "--logging.verbose") verbose_errors = true;
  }
}

void print_error(const std::string& text) {
  std::fflush(stdout);  // what was said before the error stands before it
  std::fputs((text + '\n').c_str(), stderr);
  std::fflush(stderr);
  log_file_only(text);
}

// Whether all ranks are here with the same text. Nothing (false) when some don't come in time: they
// have not failed and will wait for this rank elsewhere.
enum class Others : std::uint8_t { absent, failed_differently, failed_alike };

Others compare_failures(MPI_Comm group, const std::string& text) {
  std::uint64_t hash = 0xcbf29ce484222325u;  // FNV-1a
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  const std::array<std::uint64_t, 2> mine = {hash, ~hash};
  std::array<std::uint64_t, 2> largest{};
  MPI_Request request = MPI_REQUEST_NULL;
  MPI_Iallreduce(mine.data(), largest.data(), 2, MPI_UINT64_T, MPI_MAX, group, &request);
  const auto deadline = std::chrono::steady_clock::now() + kWaitForOthers;
  int done = 0;
  while (true) {
    MPI_Test(&request, &done, MPI_STATUS_IGNORE);
    if (done != 0) break;
    if (std::chrono::steady_clock::now() > deadline) return Others::absent;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return largest[0] == ~largest[1] ? Others::failed_alike : Others::failed_differently;
}

// Called with the exception in flight; prints it and returns the exit code, or ends the job.
int leave_after_failure(const std::string& name, MpiEnvironment& mpi, Watchdog& watchdog,
                        MPI_Comm failures) {
  const std::string plain = describe_current_exception(name, -1, verbose_errors);
  if (mpi.size() == 1) {
    print_error(plain);
    return kExitFailure;
  }
  const Others others = compare_failures(failures, plain);
  if (others != Others::failed_alike) {
    print_error(describe_current_exception(name, mpi.rank(), verbose_errors));
  } else if (mpi.rank() == 0) {
    print_error(plain);
  }
  if (others == Others::absent) {
    watchdog.job_ends();
    mpi.abort(kExitLostRanks);
  }
  // All ranks leave through MPI_Finalize; should one of them hang there, mpirun sees it die.
  ::alarm(kSecondsToLeave);
  return kExitFailure;
}

}  // namespace

void set_verbose_errors(bool verbose) {
  verbose_errors = verbose;
}

std::string describe_current_exception(const std::string& name, int rank, bool verbose) {
  const std::string start = rank < 0 ? name + ": " : fmt::format("{}: rank {}: ", name, rank);
  std::string text = start;
  try {
    throw;
  } catch (const Error& e) {
    text += e.what();
    if (verbose) {
      text += fmt::format(" ({}:{}, {})", e.where().file_name(), e.where().line(),
                          e.where().function_name());
    }
  } catch (const std::bad_alloc&) {
    text +=
        "out of memory: the system refused an allocation. Give the job more memory, or lower "
        "batch.train_micro_batch_size_per_gpu or the model's size";
  } catch (const std::exception& e) {
    text += fmt::format("internal error: {}", e.what());
  } catch (...) {
    text += "internal error: an exception of unknown type";
  }
  // Several mistakes are several lines; each must stand on its own among the lines of other ranks.
  for (std::size_t at = 0; (at = text.find('\n', at)) != std::string::npos;) {
    text.insert(++at, start);
  }
  return text;
}

int run_program(const std::string& name, int argc, char** argv, const ProgramBody& body) {
  look_for_verbose(argc, argv);
  try {
    require_compatible_cpu();
    return body(argc, argv);
  } catch (...) {
    print_error(describe_current_exception(name, -1, verbose_errors));
    return kExitFailure;
  }
}

int run_mpi_program(const std::string& name, int argc, char** argv, const MpiProgramBody& body) {
  return run_program(name, argc, argv, [&](int count, char** arguments) {
    MpiEnvironment mpi(&count, &arguments);
    // A group of its own, so that this exchange meets no message of the work that failed.
    MPI_Comm failures = MPI_COMM_NULL;
    MPI_Comm_dup(MPI_COMM_WORLD, &failures);
    Watchdog watchdog(mpi);
    int code = kExitFailure;
    try {
      code = body(count, arguments, mpi, watchdog);
    } catch (...) {
      code = leave_after_failure(name, mpi, watchdog, failures);
    }
    MPI_Comm_free(&failures);
    return code;
  });
}

}  // namespace neox
