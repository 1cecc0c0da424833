#pragma once
// Every system call of a save, and of a load, fails in every way on every rank: nothing hangs, all
// ranks agree, no checkpoint is lost or half written, and the next save works. For any number of
// ranks; each program includes this once.

#include <cerrno>
#include <cstdio>
#include <sstream>
#include <system_error>
#include <utility>

#include "core/base/log.h"
#include "tests/io/checkpoint/fault_test_size.h"
#include "tests/io/checkpoint/injected_faults.h"
#include "tests/io/checkpoint/sample_state.h"

namespace neox {
namespace {

/// One case: what fails where, in a save in the foreground or in the background.
struct FaultCase {
  Fault fault;
  int rank = 0;
  bool background = false;
  std::string str() const {
    return fmt::format("{} number {}{} answers {} on rank {}, {}", fault.call, fault.first,
                       fault.lasting ? " and later ones" : "", fault.answer, rank,
                       background ? "in the background" : "in the foreground");
  }
};

class DiskFaults : public CheckpointTest {
 protected:
  DiskFaults() {
    set_log_level(LogLevel::error);  // thousands of expected warnings
    if (rank == 0) fs::remove_all(directory);
    std::string name = "/dev/shm/neox-faults-XXXXXX";  // where fsync costs nothing
    if (rank == 0) {
      EXPECT_NE(mkdtemp(name.data()), nullptr);
    }
    directory = group.host_broadcast(name, 0);
    save(group, directory, 1, {}, 1);
    old_bytes = read_bytes(path_of(1));
  }
  ~DiskFaults() override {
    set_log_level(LogLevel::info);
    if (rank == 0) std::printf("[   CASES  ] %d, of which %d ended in an Error\n", cases, errors);
  }

  std::string path_of(std::int64_t step) const {
    return fmt::format("{}/step{:010}.h5", directory, step);
  }
  void save_step(std::int64_t step, bool background, const SaveOptions& options = {}) {
    SampleState state(rank, group.size(), true, static_cast<int>(step));
    CheckpointSave save(group, directory, state.tensors(), sample_info(step), options);
    if (background) {  // writing and committing in threads
      save.start();
      save.start_commit();
    }
    save.finish();
  }
  /// The number of calls of each kind that f() makes on each rank.
  template <class F>
  std::vector<std::map<std::string, int>> calls_of(F f) {
    std::string text;
    {
      const InjectedFaults none;
      f();
      for (const auto& [call, count] : none.calls()) text += fmt::format("{} {}\n", call, count);
    }
    std::vector<std::map<std::string, int>> all;
    for (const std::string& lines : group.host_all_gather(text)) {
      std::istringstream in(lines);
      auto& calls = all.emplace_back();
      std::string call;
      for (int count = 0; in >> call >> count;) calls[call] = count;
    }
    return all;
  }
  /// All cases, or an evenly spread sample of about `sample` that has every kind of call.
  std::vector<FaultCase> choose(const std::vector<FaultCase>& all, std::size_t sample) const {
    if (all_faults()) return all;
    const std::size_t stride = std::max<std::size_t>(all.size() / sample, 1);
    std::map<std::pair<int, std::string>, bool> seen;
    std::vector<FaultCase> chosen;
    for (std::size_t i = 0; i < all.size(); ++i) {
      const bool first = !std::exchange(seen[{all[i].rank, all[i].fault.call}], true);
      if (first || i % stride == stride / 2) chosen.push_back(all[i]);
    }
    return chosen;
  }
  /// f(), with the fault on its rank; the message, which is the same on all ranks.
  template <class F>
  std::string message_with(const FaultCase& c, F f) {
    const TimeLimit limit(120);
    std::string message;
    std::int64_t fired = 0;
    {
      const InjectedFaults faults(rank == c.rank ? c.fault : Fault{});
      message = error_of(f);
      fired = faults.fired();
    }
    group.host_all_reduce(std::span(&fired, 1), ReduceOp::max);
    EXPECT_GT(fired, 0) << c.str();
    EXPECT_THAT(group.host_all_gather(message), ::testing::Each(message)) << c.str();
    ++cases;
    if (!message.empty()) ++errors;
    return message;
  }
  bool must_succeed(const Fault& fault) const {
    if (fault.answer < 0 || fault.answer == EINTR) return true;
    return fault.call == "pread" && fault.answer == EIO && !fault.lasting;  // tried again
  }
  void expect_message(const std::string& message, const FaultCase& c) const {
    if (c.rank > 0 || c.fault.call != "statvfs") {
      EXPECT_THAT(message, HasSubstr(std::generic_category().message(c.fault.answer))) << c.str();
    }
    if (group.size() > 1) {
      EXPECT_THAT(message, HasSubstr(fmt::format("failed on rank {} (", c.rank))) << c.str();
    }
  }
  void check_save(const FaultCase& c);
  void check_load(const FaultCase& c);

  std::string old_bytes;
  int cases = 0, errors = 0;
};

void DiskFaults::check_save(const FaultCase& c) {
  const std::string message = message_with(c, [&] { save_step(2, c.background); });
  if (must_succeed(c.fault)) {
    EXPECT_EQ(message, "") << c.str();
  }
  if (!message.empty()) {
    EXPECT_THAT(message, HasSubstr("saving the checkpoint of step 2 failed")) << c.str();
    expect_message(message, c);
  }
  if (rank == 0) {
    EXPECT_TRUE(read_bytes(path_of(1)) == old_bytes) << c.str();
    // Only when its removal fails too, a temporary waits for the next save.
    for (const std::string& name : files()) {
      EXPECT_TRUE(!name.starts_with(".tmp") || c.fault.call == "unlink") << name << ": " << c.str();
    }
  }
  const bool committed = fs::exists(path_of(2));
  EXPECT_TRUE(committed || !message.empty()) << c.str();
  group.barrier();
  EXPECT_EQ(open_newest(group, directory)->info().step, committed ? 2 : 1) << c.str();
  EXPECT_EQ(error_of([&] { save_step(3, false); }), "") << c.str();
  if (rank == 0) {
    std::vector<std::string> want = {"latest", "step0000000001.h5"};
    if (committed) want.push_back("step0000000002.h5");
    want.push_back("step0000000003.h5");
    EXPECT_EQ(files(), want) << c.str();
    EXPECT_EQ(read_bytes(directory + "/latest"), "step0000000003.h5\n") << c.str();
    fs::remove(path_of(2));
    fs::remove(path_of(3));
  }
  group.barrier();
}

TEST_F(DiskFaults, OfASave) {
  std::vector<FaultCase> all;
  for (const bool background : {false, true}) {
    const auto calls = calls_of([&] { save_step(2, background); });
    if (rank == 0) {
      for (const char* call :
           {"open", "fstat", "fallocate", "pwrite", "pread", "lseek", "ftruncate", "fsync", "close",
            "rename", "mkdir", "statvfs", "mkstemp"}) {
        EXPECT_GT(calls[0].count(call), 0u) << call;
      }
    }
    for (int failing = 0; failing < group.size(); ++failing) {
      for (const auto& [call, count] : calls[static_cast<std::size_t>(failing)]) {
        for (int k = 0; k < count; ++k) {
          for (const int code : {EIO, ENOSPC, EDQUOT, EROFS}) {
            all.push_back({{call, k, code, false}, failing, background});
            if (code == EIO || code == ENOSPC) {
              all.push_back({{call, k, code, true}, failing, background});
            }
          }
          all.push_back({{call, k, EINTR, false}, failing, background});
          if (call != "pwrite" && call != "pread") continue;
          all.push_back({{call, k, -1, false}, failing, background});
          all.push_back({{call, k, -1000, true}, failing, background});
        }
      }
    }
  }
  if (rank == 0) {
    fs::remove(path_of(2));
    std::printf("[   CASES  ] %zu ways for a save to fail\n", all.size());
  }
  group.barrier();
  for (const FaultCase& c : choose(all, group.size() == 1 ? 250 : 240 / group.size() - 20))
    check_save(c);
}

// The unlink of a failed save's temporary fails too.
TEST_F(DiskFaults, OfTheCleanUpAfterAFailure) {
  for (const bool background : {false, true}) {
    const TimeLimit limit(60);
    std::string message;
    {
      // Rank 0 cannot remove anything; the last rank cannot sync.
      testing_hooks::fail_call = [](const char* call, const std::string& path) {
        const bool temporary = path.find("/.tmp-step") != std::string::npos;
        return temporary &&
                       (call == std::string_view("unlink") || call == std::string_view("fsync"))
                   ? EIO
                   : 0;
      };
      message = error_of([&] { save_step(2, background); });
      testing_hooks::fail_call = nullptr;
    }
    EXPECT_THAT(message, HasSubstr("fsync of "));
    group.barrier();
    EXPECT_EQ(files().size(), 3u);  // latest, step 1 and the temporary
    EXPECT_EQ(open_newest(group, directory)->info().step, 1);
    save_step(3, background);
    EXPECT_THAT(files(),
                ::testing::ElementsAre("latest", "step0000000001.h5", "step0000000003.h5"));
    group.barrier();
    if (rank == 0) fs::remove(path_of(3));
    group.barrier();
  }
}

// Whatever fails while old checkpoints are removed, the new one is there and loads.
TEST_F(DiskFaults, OfRetention) {
  const SaveOptions options{CheckpointIo::direct, 2, {}};
  const auto prepare = [&] {
    for (const std::int64_t step : {1, 2, 3}) save_step(step, false);
  };
  prepare();
  const auto calls = calls_of([&] { save_step(4, false, options); });
  int runs = 0;
  for (const char* call : {"rename", "unlink", "open", "fsync"}) {
    const int count = calls[0].at(call);
    for (int k = 0; k < count; ++k) {
      if (!all_faults() && ++runs % (2 * group.size()) != 1) continue;
      for (const bool lasting : {false, true}) {
        if (rank == 0) fs::remove(path_of(4));
        prepare();
        const FaultCase c{{call, k, EIO, lasting}, 0, false};
        const std::string message = message_with(c, [&] { save_step(4, false, options); });
        EXPECT_EQ(open_newest(group, directory)->info().step, fs::exists(path_of(4)) ? 4 : 3)
            << c.str();
        EXPECT_TRUE(fs::exists(path_of(3))) << c.str();
        EXPECT_EQ(error_of([&] { save_step(4, false, options); }), "") << c.str();
        EXPECT_THAT(files(),
                    ::testing::ElementsAre("latest", "step0000000003.h5", "step0000000004.h5"))
            << c.str();
        group.barrier();
      }
    }
  }
}

// An unreadable checkpoint is not a damaged one, but no better either: what passes by is tried
// again; what stays makes the run use the one before; when a rank can read none, the run ends.
void DiskFaults::check_load(const FaultCase& c) {
  std::int64_t step = 0;
  std::int64_t wrong = 0;
  const std::string message = message_with(c, [&] {
    const auto reader = open_newest(group, directory);
    step = reader->info().step;
    SampleState state(rank, group.size(), false);
    reader->read(state.tensors());
    wrong = state.wrong_elements(static_cast<int>(step));
  });
  EXPECT_EQ(wrong, 0) << c.str();
  if (must_succeed(c.fault)) {
    EXPECT_EQ(message, "") << c.str();
    EXPECT_EQ(step, 2) << c.str();
  }
  if (!message.empty()) expect_message(message, c);
  if (c.fault.lasting && c.fault.answer == ESTALE && c.fault.first == 0) {
    EXPECT_THAT(message, HasSubstr("none of the 2 checkpoints")) << c.str();
  }
}

TEST_F(DiskFaults, OfALoad) {
  save_step(2, false);
  const auto calls = calls_of([&] {
    const auto reader = open_newest(group, directory);
    SampleState state(rank, group.size(), false);
    reader->read(state.tensors());
  });
  std::vector<FaultCase> all;
  for (int failing = 0; failing < group.size(); ++failing) {
    for (const auto& [call, count] : calls[static_cast<std::size_t>(failing)]) {
      for (int k = 0; k < count; ++k) {
        for (const int code : {ESTALE, EIO, ENOMEM}) {
          for (const bool lasting : {false, true}) {
            all.push_back({{call, k, code, lasting}, failing, false});
          }
        }
        all.push_back({{call, k, EINTR, false}, failing, false});
        if (call == "pread") all.push_back({{call, k, -1, false}, failing, false});
        if (call == "pread") all.push_back({{call, k, -1000, true}, failing, false});
      }
    }
  }
  if (rank == 0) std::printf("[   CASES  ] %zu ways for a load to fail\n", all.size());
  for (const FaultCase& c : choose(all, 80 / group.size())) check_load(c);
  EXPECT_EQ(open_newest(group, directory)->info().step, 2);
}

}  // namespace
}  // namespace neox
