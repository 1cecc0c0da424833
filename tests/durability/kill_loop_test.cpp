// One rank of a running job is killed with SIGKILL, again and again: no checkpoint is lost, no
// value is wrong, and no job hangs. NEOX_KILLS: how often; NEOX_SEED: which moments.

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <thread>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "core/base/exit_code.h"
#include "tests/durability/interrupted_run.h"

namespace neox::testing {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kKeepLast = 3;
constexpr double kSecondsToStart = 300, kSecondsToEnd = 60;
constexpr int kKilled = 128 + SIGKILL;

double uniform(std::mt19937_64& random, double most) {
  return std::uniform_real_distribution<double>(0.0, most)(random);
}

double median(std::vector<double> values, double otherwise) {
  if (values.empty()) return otherwise;
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2),
                   values.end());
  return values[values.size() / 2];
}

void sleep(double seconds) {
  std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
}

class KillLoop : public ::testing::Test {
 protected:
  KillLoop() : kills_(number_from_environment("NEOX_KILLS", 6)), random_(choose_seed()) {
    make_corpus(workspace_);
    // Three steps for each kill: one is lost with it.
    steps_ = 3 * kills_ + 8;
    workspace_.write("run.ini", durable_config(steps_, 1, kKeepLast));
  }

  InterruptedRun make_run(const StepRecords& reference, double tolerance) const {
    RunPlace place;
    place.config = "run.ini";
    place.folder = "loop";
    place.checkpoints = workspace_.file("loop/run");
    place.metrics = workspace_.file("loop/run/metrics.jsonl");
    place.steps = steps_;
    place.keep_last = kKeepLast;
    return {workspace_, place, reference, tolerance};
  }

  /// One job, ended by the death of one of its ranks.
  void kill_once(InterruptedRun& run, const JobLayout& layout, std::int64_t kills_left) {
    run.start(layout);
    wait_for_moment(run, layout, kills_left);
    const auto ranks = run.job().ranks();
    const std::string under_way = look(run);
    if (!ranks.empty()) {
      const auto victim = std::next(ranks.begin(), std::uniform_int_distribution<std::ptrdiff_t>(
                                                       0, std::ssize(ranks) - 1)(random_));
      ::kill(victim->second, SIGKILL);
    }
    double seconds = run.job().wait(kSecondsToEnd);
    // When a rank dies while it connects, mpirun 4.1 itself may hang or crash. The ranks must not.
    const bool launcher_stays = seconds < 0 && run.job().ranks().empty();
    if (launcher_stays) {
      run.job().kill_launcher();
      seconds = 0.0;
    }
    const bool launcher_failed = launcher_stays || run.job().launcher_crashed();
    if (launcher_failed) ++run.tally.launcher_failures;
    ASSERT_GE(seconds, 0) << "the job hangs:\n" << run.job().describe() << run.job().err();
    run.saves().update();
    durations_.insert(durations_.end(), run.saves().durations().begin(),
                      run.saves().durations().end());
    Tally& t = run.tally;
    t.slowest_end = std::max(t.slowest_end, seconds);
    const int code = run.job().exit_code();
    ++t.exit_codes[code];
    if (code == 0) {  // it was through before
      ++t.jobs_finished;
    } else {
      EXPECT_TRUE(code == kKilled || code == kExitLostRanks || launcher_failed) << code << "\n"
                                                                                << run.job().err();
      ++t.faults;
      if (run.saves().begun() == 0) ++t.during_start;
      // The victim had a part in this save, which never came to its end.
      const std::string left = run.place().checkpoints + "/" + under_way;
      if (!under_way.empty() && fs::exists(left)) ++t.inside_saves;
    }
    run.check(run.saves().committed());
  }

  void kill_all(InterruptedRun& run, const std::vector<JobLayout>& layouts) {
    while (run.tally.faults < kills_ && !HasFailure()) {
      if (run.finished()) run.start_over();
      const auto which = std::uniform_int_distribution<std::size_t>(0, layouts.size() - 1)(random_);
      kill_once(run, layouts[which], kills_ - run.tally.faults);
      if (run.tally.faults % 25 == 0) report(run.tally);
    }
  }

  void run_to_the_end(InterruptedRun& run, const JobLayout& layout) {
    run.start(layout);
    ASSERT_GE(run.job().wait(1200), 0) << run.job().err();
    EXPECT_EQ(run.job().exit_code(), 0) << run.job().err();
    run.saves().update();
    run.check(run.saves().committed());
    run.check_end();
  }

  static void report(const Tally& t) {
    std::string codes;
    for (const auto& [code, count] : t.exit_codes) codes += fmt::format(" {}: {},", code, count);
    if (!codes.empty()) codes.pop_back();
    fmt::print(
        "    kills                          {}\n"
        "      inside a save                {}\n"
        "      before the job's first save  {}\n"
        "    checkpoints committed          {}\n"
        "      lost or damaged              {} (verified {} times)\n"
        "    resumes from the newest        {}\n"
        "    steps compared                 {} ({} by sample too), worst loss {:.1e} off\n"
        "    slowest end after a kill       {:.2f} s; exit codes{}\n"
        "    mpirun itself hung or crashed  {}\n"
        "    jobs that ended before         {}\n\n",
        t.faults, t.inside_saves, t.during_start, t.commits,
        ::testing::Test::HasFailure() ? "SEE ABOVE" : "0", t.verified, t.resumes, t.steps_compared,
        t.with_samples, t.worst_loss, t.slowest_end, codes, t.launcher_failures, t.jobs_finished);
    std::fflush(stdout);
  }

  Workspace workspace_;
  std::int64_t kills_, steps_ = 0;
  std::mt19937_64 random_;
  std::vector<double> durations_, starts_;  // of saves; from all ranks' start to the first save

 private:
  static std::string look(InterruptedRun& run) {
    run.saves().update();
    return run.saves().under_way();
  }

  // One kill in seven at any moment from the start on, the others from the begin of a save on until
  // about its end. Saves at every step and in the background: there is nearly always one.
  void wait_for_moment(InterruptedRun& run, const JobLayout& layout, std::int64_t kills_left) {
    ASSERT_TRUE(run.job().wait_for_ranks(layout.ranks, kSecondsToStart)) << run.job().err();
    const auto began = std::chrono::steady_clock::now();
    const auto elapsed = [&] {
      return std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
    };
    if (uniform(random_, 1.0) < 0.15) {
      sleep(uniform(random_, 1.2 * median(starts_, 1.0)));
      return;
    }
    const std::int64_t steps_left = steps_ - run.newest();
    const std::int64_t most = std::clamp<std::int64_t>(2 * steps_left / kills_left - 1, 1, 12);
    const auto wanted =
        static_cast<int>(std::uniform_int_distribution<std::int64_t>(1, most)(random_));
    bool first = true;
    while (run.saves().begun() < wanted && run.job().running()) {
      ASSERT_LT(elapsed(), kSecondsToStart) << run.job().err();
      run.saves().update(0.05);
      if (first && run.saves().begun() > 0) {
        starts_.push_back(elapsed());
        first = false;
      }
    }
    sleep(uniform(random_, median(durations_, 0.02)));
  }
};

TEST_F(KillLoop, InRandomLayouts) {
  const StepRecords reference =
      uninterrupted_run(workspace_, "run.ini", "straight", {1, twelve_layouts()[0].options},
                        "--checkpoint.checkpoint_factor 1000000");
  ASSERT_EQ(std::ssize(reference), steps_);
  InterruptedRun run = make_run(reference, 1e-6);
  kill_all(run, twelve_layouts());
  if (!HasFatalFailure()) run_to_the_end(run, twelve_layouts()[3]);
  report(run.tally);
  // Some three in four do; a handful may have bad luck.
  EXPECT_GE(run.tally.inside_saves, kills_ >= 50 ? kills_ / 2 : 1) << "too few kills hit a save";
}

// Then the whole run is the same, and so are its files, byte for byte.
TEST_F(KillLoop, InOneLayoutTheLastCheckpointIsTheSame) {
  const JobLayout layout = twelve_layouts()[5];
  const StepRecords reference = uninterrupted_run(workspace_, "run.ini", "straight", layout);
  ASSERT_EQ(std::ssize(reference), steps_);
  InterruptedRun run = make_run(reference, 0.0);
  kill_all(run, {layout});
  if (!HasFatalFailure()) run_to_the_end(run, layout);
  report(run.tally);
  for (const std::int64_t step : checkpoints_in(run.place().checkpoints)) {
    const std::string name = fmt::format("run/step{:010}.h5", step);
    const auto compare = workspace_.run(fmt::format("cmp straight/{0} loop/{0}", name));
    EXPECT_EQ(compare.exit_code, 0) << compare.out << compare.err;
  }
}

}  // namespace
}  // namespace neox::testing
