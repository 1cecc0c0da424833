// Memory and open files of a long run with many saves stay what they are.
// NEOX_FLAT_STEPS: how long; a save every fiftieth step (every tenth of a short run).

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <thread>
#include <unistd.h>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "tests/durability/interrupted_run.h"

namespace neox::testing {
namespace {

namespace fs = std::filesystem;

constexpr int kRanks = 2;

struct Sample {
  double resident_mib = 0.0;
  int files = 0;
};

Sample sample(pid_t pid) {
  Sample result;
  std::ifstream statm(fmt::format("/proc/{}/statm", pid));
  std::int64_t pages = 0, resident = 0;
  statm >> pages >> resident;
  result.resident_mib = static_cast<double>(resident * sysconf(_SC_PAGESIZE)) / (1 << 20);
  std::error_code ignored;
  for ([[maybe_unused]] const auto& file :
       fs::directory_iterator(fmt::format("/proc/{}/fd", pid), ignored)) {
    ++result.files;
  }
  return result;
}

/// Largest values of samples [begin, end).
Sample most(const std::vector<Sample>& samples, std::size_t begin, std::size_t end) {
  Sample result;
  for (std::size_t i = begin; i < end; ++i) {
    result.resident_mib = std::max(result.resident_mib, samples[i].resident_mib);
    result.files = std::max(result.files, samples[i].files);
  }
  return result;
}

TEST(Flatness, OfMemoryAndFiles) {
  const std::int64_t steps = number_from_environment("NEOX_FLAT_STEPS", 400);
  const std::int64_t every = steps >= 2000 ? 50 : 10;
  Workspace workspace;
  make_corpus(workspace);
  workspace.write("run.ini", durable_config(steps, every, 3));
  Job job(workspace,
          mpirun(kRanks,
                 "neox_train --config ../run.ini --parallel.zero_stage 1 "
                 "--batch.train_micro_batch_size_per_gpu 6"),
          "run");
  ASSERT_TRUE(job.wait_for_ranks(kRanks, 300)) << job.err();
  const auto ranks = job.ranks();
  // By step, not by time: a first save and the first thousand-step line belong to the beginning.
  SaveWatch saves(workspace.file("run/run"));
  std::vector<std::vector<Sample>> samples(kRanks);
  std::size_t seen = 0;
  while (job.running()) {
    saves.update(1.0);
    if (saves.committed().size() == seen) continue;
    seen = saves.committed().size();
    for (const auto& [rank, pid] : ranks) {
      const Sample now = sample(pid);
      if (now.files > 0) samples[static_cast<std::size_t>(rank)].push_back(now);
    }
  }
  EXPECT_EQ(job.exit_code(), 0) << job.err();
  for (int rank = 0; rank < kRanks; ++rank) {
    const auto& all = samples[static_cast<std::size_t>(rank)];
    ASSERT_GE(all.size(), 10u);
    const Sample first = most(all, 0, all.size() / 5);
    const Sample last = most(all, all.size() / 2, all.size());
    std::string fifths;
    for (std::size_t i = 0; i < 5; ++i) {
      const Sample part = most(all, i * all.size() / 5, (i + 1) * all.size() / 5);
      fifths += fmt::format(" {:.1f}", part.resident_mib);
    }
    fmt::print(
        "    rank {}: {} steps, a save every {}: resident MiB by fifths of the run{}; open files "
        "{} "
        "in the first fifth, {} in the last half\n",
        rank, steps, every, fifths, first.files, last.files);
    // Which of its arenas malloc gives a save's threads is up to it: a few MiB each.
    EXPECT_LE(last.resident_mib, first.resident_mib + 8.0);
    EXPECT_LE(last.files, first.files);
  }
}

}  // namespace
}  // namespace neox::testing
