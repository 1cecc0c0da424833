// The power fails while checkpoints are written: what was reported as saved is there afterwards.
// NEOX_POWER_LOSSES: how often; NEOX_CONTROLS: how often without fsync, which must lose them.

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <optional>
#include <thread>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "tests/durability/interrupted_run.h"
#include "tests/durability/loop_disk.h"

namespace neox::testing {
namespace {

constexpr std::int64_t kKeepLast = 3;
constexpr double kSecondsToStart = 300;
constexpr int kMegabytes = 160;

class PowerLoss : public ::testing::Test {
 protected:
  void SetUp() override {
    disk_.emplace(workspace_.path().string(), kMegabytes);
    if (!disk_->problem().empty()) {
      GTEST_SKIP() << "power losses need root and an ext4 loop mount: " << disk_->problem();
    }
    random_.seed(choose_seed());
    make_corpus(workspace_);
  }

  /// For `losses` power losses: five steps each.
  InterruptedRun make_run(std::int64_t losses) {
    RunPlace place;
    place.config = "run.ini";
    place.folder = "loop";
    place.checkpoints = disk_->path() + "/run";
    place.metrics = workspace_.file("loop/log/metrics.jsonl");
    // Metrics are no part of the promise: they are kept where the power stays.
    place.options = fmt::format("--checkpoint.save {} --logging.log_dir log", place.checkpoints);
    place.steps = 5 * losses + 20;
    place.keep_last = kKeepLast;
    workspace_.write("run.ini", durable_config(place.steps, 1, kKeepLast));
    StepRecords reference =
        uninterrupted_run(workspace_, "run.ini", "straight", twelve_layouts()[0],
                          "--checkpoint.checkpoint_factor 1000000");
    EXPECT_EQ(std::ssize(reference), place.steps);
    return {workspace_, place, std::move(reference), 1e-6};
  }

  /// Cuts the power at a random moment of the job's `save`-th save or a little later, and returns
  /// the steps that the job had reported as saved. The disk is back then.
  std::set<std::int64_t> cut(InterruptedRun& run, int save) {
    const auto began = std::chrono::steady_clock::now();
    while (run.saves().begun() < save && run.job().running()) {
      EXPECT_LT(std::chrono::steady_clock::now() - began,
                std::chrono::duration<double>(kSecondsToStart))
          << run.job().err();
      if (HasFailure()) return {};
      run.saves().update(0.05);
    }
    std::vector<double> durations = durations_;
    std::sort(durations.begin(), durations.end());
    const double typical = durations.empty() ? 0.02 : durations[durations.size() / 2];
    std::this_thread::sleep_for(std::chrono::duration<double>(
        std::uniform_real_distribution<double>(0.0, 1.1 * typical)(random_)));
    disk_->cut_power();
    for (const auto& [rank, pid] : run.job().ranks()) ::kill(pid, SIGKILL);
    EXPECT_GE(run.job().wait(60), 0) << run.job().err();
    run.saves().update();
    if (!run.saves().under_way().empty()) ++run.tally.inside_saves;
    ++run.tally.faults;
    durations_.insert(durations_.end(), run.saves().durations().begin(),
                      run.saves().durations().end());
    disk_->power_on();
    const auto saved = numbers_after(run.job().err(), "saved " + run.place().checkpoints + "/step");
    return {saved.begin(), saved.end()};
  }

  int random_save(int most) { return std::uniform_int_distribution<int>(1, most)(random_); }
  JobLayout random_layout() {
    const auto layouts = twelve_layouts();
    return layouts[std::uniform_int_distribution<std::size_t>(0, layouts.size() - 1)(random_)];
  }

  Workspace workspace_;
  std::optional<LoopDisk> disk_;
  std::mt19937_64 random_;
  std::vector<double> durations_;
};

TEST_F(PowerLoss, WhatWasSavedIsThere) {
  const std::int64_t losses = number_from_environment("NEOX_POWER_LOSSES", 3);
  InterruptedRun run = make_run(losses);
  while (run.tally.faults < losses && !HasFailure()) {
    if (run.finished()) run.start_over();
    run.start(random_layout());
    const std::set<std::int64_t> saved = cut(run, random_save(8));
    run.check(saved);
    if (run.tally.faults % 10 == 0 || run.tally.faults == losses) {
      const Tally& t = run.tally;
      fmt::print(
          "    power losses                   {}\n"
          "      inside a save                {}\n"
          "    checkpoints reported as saved  {}\n"
          "      lost or damaged              {} (verified {} times)\n"
          "    resumes from the newest        {}\n"
          "    steps compared                 {}, worst loss {:.1e} off\n\n",
          t.faults, t.inside_saves, t.commits, HasFailure() ? "SEE ABOVE" : "0", t.verified,
          t.resumes, t.steps_compared, t.worst_loss);
      std::fflush(stdout);
    }
  }
}

TEST_F(PowerLoss, WithoutSyncItIsLost) {
  const std::int64_t controls = number_from_environment("NEOX_CONTROLS", 1);
  InterruptedRun run = make_run(controls);
  std::int64_t times_lost = 0, reported = 0, lost = 0;
  for (std::int64_t i = 0; i < controls; ++i) {
    run.start_over();
    run.start(twelve_layouts()[2],
              "env ASAN_OPTIONS=verify_asan_link_order=0 LD_PRELOAD=" NEOX_BINARY_DIR
              "/bin/libno_fsync.so ");
    const std::set<std::int64_t> saved = cut(run, 4);
    ASSERT_FALSE(saved.empty());
    std::int64_t lost_now = 0, looked_at = 0;
    for (auto step = saved.rbegin(); step != saved.rend() && looked_at < kKeepLast; ++step) {
      ++looked_at;
      lost_now += damage_of(run.place().checkpoints, *step).empty() ? 0 : 1;
    }
    reported += looked_at;
    lost += lost_now;
    times_lost += lost_now > 0 ? 1 : 0;
  }
  fmt::print(
      "    without fsync: {} power losses, {} of them lost checkpoints ({} of the {} that had to "
      "be "
      "there)\n",
      controls, times_lost, lost, reported);
  EXPECT_EQ(times_lost, controls)
      << "the power losses of this test lose nothing: they prove nothing";
}

}  // namespace
}  // namespace neox::testing
