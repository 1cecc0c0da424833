#include "core/train/preflight_host.h"

#include <atomic>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/base/error.h"
#include "core/train/preflight_probe.h"
#include "io/checkpoint/posix_file.h"

namespace neox {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

class PreflightHost : public ::testing::Test {
 protected:
  PreflightHost() {
    std::string name = (fs::temp_directory_path() / "neox-preflight-XXXXXX").string();
    root = ::mkdtemp(name.data());
  }
  ~PreflightHost() override {
    testing_hooks::fail_call = nullptr;
    fs::remove_all(root);
  }
  void write(const std::string& path, const std::string& text) const {
    fs::create_directories(fs::path(root + path).parent_path());
    std::ofstream(root + path) << text;
  }
  bool empty() const { return fs::is_empty(root); }

  std::string root;
};

constexpr const char* kMeminfo = "MemTotal:  9000000 kB\nMemFree: 10 kB\nMemAvailable: 1000 kB\n";

TEST_F(PreflightHost, MemoryWithoutControlGroups) {
  EXPECT_EQ(memory_available(root), -1);
  write("/proc/meminfo", kMeminfo);
  EXPECT_EQ(memory_available(root), 1000 * 1024);
}

TEST_F(PreflightHost, MemoryLimitOfControlGroupVersion2) {
  write("/proc/meminfo", kMeminfo);
  write("/proc/self/cgroup", "0::/slurm/job_7\n");
  write("/sys/fs/cgroup/slurm/job_7/memory.max", "max\n");
  write("/sys/fs/cgroup/slurm/job_7/memory.current", "400\n");
  EXPECT_EQ(memory_available(root), 1000 * 1024);
  write("/sys/fs/cgroup/slurm/memory.max", "1000\n");  // of the group around it
  write("/sys/fs/cgroup/slurm/memory.current", "700\n");
  EXPECT_EQ(memory_available(root), 300);
  write("/sys/fs/cgroup/slurm/memory.stat", "anon 650\ninactive_file 50\n");
  EXPECT_EQ(memory_available(root), 350);
  write("/sys/fs/cgroup/slurm/job_7/memory.max", "450\n");
  EXPECT_EQ(memory_available(root), 50);
}

TEST_F(PreflightHost, MemoryLimitOfControlGroupVersion1) {
  write("/proc/meminfo", kMeminfo);
  write("/proc/self/cgroup", "12:cpu,cpuacct:/x\n9:memory:/\n0::/x\n");
  write("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  write("/sys/fs/cgroup/memory/memory.usage_in_bytes", "5\n");
  EXPECT_EQ(memory_available(root), 1000 * 1024);
  write("/sys/fs/cgroup/memory/memory.limit_in_bytes", "2000\n");
  EXPECT_EQ(memory_available(root), 1995);
}

TEST_F(PreflightHost, OfThisMachine) {
  RankFacts facts;
  measure_host(facts);
  EXPECT_GT(facts.host_available, 1 << 20);
  EXPECT_GE(facts.cores, 1);
  EXPECT_GE(facts.node_cores, facts.cores);
  EXPECT_GE(facts.threads, 1);
  EXPECT_GT(facts.open_files, 10);
  EXPECT_GT(facts.shm_free, 0);
  EXPECT_EQ(disk_free(root + "/missing"), -1);
}

TEST_F(PreflightHost, TheTestFileLeavesNothingBehind) {
  EXPECT_GT(timed_write(root, 3 << 20), 0);
  EXPECT_TRUE(empty());
}

std::atomic<const char*> failing_call = "";
int fault(const char* call, const std::string&) {
  return std::strcmp(call, failing_call) == 0 ? ENOSPC : 0;
}

TEST_F(PreflightHost, NeitherDoesOneThatFails) {
  testing_hooks::fail_call = fault;
  for (const char* call : {"open", "pwrite", "fsync"}) {
    failing_call = call;
    try {
      timed_write(root, 3 << 20);
      ADD_FAILURE() << call;
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), ::testing::HasSubstr("No space left")) << call;
    }
    EXPECT_TRUE(empty()) << call;
  }
}

TEST_F(PreflightHost, AMarkerFileIsSeenWhileItLives) {
  std::string path;
  {
    const MarkerFile marker(root);
    path = marker.path();
    EXPECT_TRUE(appears(path, 0));
  }
  EXPECT_FALSE(appears(path, 0));
  EXPECT_TRUE(empty());
  EXPECT_THROW(MarkerFile(root + "/missing"), Error);
}

std::vector<std::vector<int>> pairs(const std::vector<std::string>& hosts) {
  return node_pairs(hosts);
}

TEST(NodePairs, NeighboursMeet) {
  EXPECT_THAT(pairs({"a", "a"}), IsEmpty());
  EXPECT_THAT(pairs({"a", "b"}), ElementsAre(ElementsAre(1, 0)));
  EXPECT_THAT(pairs({"a", "b", "c"}),
              ElementsAre(ElementsAre(1, 0, -1), ElementsAre(-1, 2, 1), ElementsAre(2, -1, 0)));
  EXPECT_THAT(pairs({"a", "b", "c", "d"}),
              ElementsAre(ElementsAre(1, 0, 3, 2), ElementsAre(3, 2, 1, 0)));
}

TEST(NodePairs, RanksMeetThoseOfTheirPlace) {
  EXPECT_THAT(pairs({"a", "a", "b", "b"}), ElementsAre(ElementsAre(2, 3, 0, 1)));
  EXPECT_THAT(pairs({"a", "b", "a", "b"}), ElementsAre(ElementsAre(1, 0, 3, 2)));
  EXPECT_THAT(pairs({"a", "a", "b"}), ElementsAre(ElementsAre(2, -1, 0)));
}

// Otherwise the exchange would hang.
TEST(NodePairs, AreMutualAndEveryNodeMeetsTwo) {
  for (int nodes = 2; nodes < 30; ++nodes) {
    std::vector<std::string> hosts;
    for (int i = 0; i < nodes; ++i) hosts.push_back(std::to_string(i));
    std::vector<int> met(hosts.size(), 0);
    for (const auto& round : node_pairs(hosts)) {
      for (int rank = 0; rank < nodes; ++rank) {
        const int peer = round[static_cast<std::size_t>(rank)];
        if (peer < 0) continue;
        ASSERT_NE(peer, rank);
        ASSERT_EQ(round[static_cast<std::size_t>(peer)], rank);
        ++met[static_cast<std::size_t>(rank)];
      }
    }
    for (const int count : met) EXPECT_EQ(count, nodes == 2 ? 1 : 2) << nodes;
  }
}

}  // namespace
}  // namespace neox
