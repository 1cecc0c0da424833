// What a preflight says about nodes: each judgement with what must and what must not be found.

#include "core/train/preflight_judge.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/base/exit_code.h"
#include "core/train/preflight_report.h"

namespace neox {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

constexpr std::int64_t kGiB = std::int64_t{1} << 30;

// `nodes` nodes of two equal ranks each, with nothing wrong.
std::vector<RankFacts> good(int nodes) {
  std::vector<RankFacts> ranks;
  for (int rank = 0; rank < 2 * nodes; ++rank) {
    RankFacts& r = ranks.emplace_back();
    r.rank = rank;
    r.host = "node" + std::to_string(rank / 2);
    r.leads_node = rank % 2 == 0;
    r.versions = {{"MPI", "4.1"}, {"HDF5", "1.10.8"}, {"CUDA driver", "13.0"}};
    r.device = "cuda";
    r.device_model = "H100";
    r.device_place = "0000:0" + std::to_string(rank % 2) + ":00.0";
    r.device_needed = 60 * kGiB;
    r.device_free = 79 * kGiB;
    r.host_needed = 10 * kGiB;
    r.host_available = 100 * kGiB;
    r.cores = 8;
    r.node_cores = 16;
    r.threads = 8;
    r.open_files = 65536;
    r.shm_free = 50 * kGiB;
    r.data = "train data 1a2b";
    r.disk_free = 1000 * kGiB;
    r.has_clock = r.leads_node;
    r.speeds = {{"product", 600}, {"memory", 3000}, {"network", 40}};
    if (r.leads_node) r.speeds["disk"] = 2;
  }
  return ranks;
}

RunNeeds needs() {
  RunNeeds n;
  n.checkpoint_directory = "/scratch/run";
  n.checkpoint_bytes = 100 * kGiB;
  n.keep_last = 3;
  n.at_the_end = 3;
  return n;
}

std::vector<std::string> texts(const std::vector<Finding>& found) {
  std::vector<std::string> all;
  for (const Finding& f : found) all.push_back(f.text);
  return all;
}

// The one thing that is found.
Finding only(const std::vector<RankFacts>& ranks, const RunNeeds& run = needs()) {
  const std::vector<Finding> found = judge(ranks, run);
  EXPECT_EQ(found.size(), 1u) << ::testing::PrintToString(texts(found));
  return found.empty() ? Finding() : found[0];
}

TEST(PreflightJudge, NothingIsFoundWhereNothingIsWrong) {
  for (const int nodes : {1, 2, 3, 40}) {
    EXPECT_THAT(texts(judge(good(nodes), needs())), IsEmpty()) << nodes;
  }
}

TEST(PreflightJudge, AnotherVersionIsNamedWithItsNode) {
  auto ranks = good(4);
  ranks[4].versions["CUDA driver"] = ranks[5].versions["CUDA driver"] = "12.4";
  Finding f = only(ranks);
  EXPECT_EQ(f.severity, Severity::error);
  EXPECT_THAT(f.text, HasSubstr("ranks 4-5 (node2): the version of CUDA driver is '12.4', that of "
                                "the others '13.0'"));
  EXPECT_THAT(f.bad_hosts, ElementsAre("node2"));
  ranks = good(4);
  ranks[7].versions.erase("HDF5");
  EXPECT_THAT(only(ranks).text, HasSubstr("rank 7 (node3): the version of HDF5 is 'none'"));
}

TEST(PreflightJudge, AMissingDevice) {
  auto ranks = good(4);
  for (RankFacts* r : {&ranks[2], &ranks[3]}) {
    r->device_problem = "no CUDA device is visible";
    r->versions.erase("CUDA driver");
  }
  Finding f = only(ranks);
  EXPECT_EQ(f.severity, Severity::error);
  EXPECT_THAT(f.text, HasSubstr("ranks 2-3 (node1): no CUDA device is visible"));
  EXPECT_THAT(f.bad_hosts, ElementsAre("node1"));
  for (RankFacts& r : ranks) r.device_problem = "no CUDA device is visible";
  EXPECT_THAT(only(ranks).bad_hosts, IsEmpty()) << "leaving out all nodes helps nobody";
}

TEST(PreflightJudge, ANodeThatWouldComputeOnItsCpu) {
  auto ranks = good(3);
  for (RankFacts* r : {&ranks[4], &ranks[5]}) {
    r->device = "cpu";
    r->device_model = r->device_place = "";
    r->device_free = r->device_needed = -1;
    r->versions.erase("CUDA driver");
    r->why_not_cuda = "no CUDA driver is installed";
  }
  const Finding f = only(ranks);
  EXPECT_EQ(f.severity, Severity::error);
  EXPECT_THAT(f.text, AllOf(HasSubstr("ranks 4-5 (node2): would compute on 'cpu' where the others "
                                      "have 'cuda' (no CUDA driver is installed)")));
  EXPECT_THAT(f.bad_hosts, ElementsAre("node2"));
}

TEST(PreflightJudge, AnotherModelAndASharedDeviceAreWarnings) {
  auto ranks = good(2);
  ranks[3].device_model = "A100";
  EXPECT_EQ(only(ranks).severity, Severity::warning);
  ranks = good(2);
  ranks[3].device_place = ranks[2].device_place;
  ranks[3].device_needed = ranks[2].device_needed = 30 * kGiB;
  const Finding f = only(ranks);
  EXPECT_EQ(f.severity, Severity::warning);
  EXPECT_THAT(f.text, HasSubstr("ranks 2-3 (node1): share one cuda"));
}

TEST(PreflightJudge, MemoryOfADeviceAndOfANode) {
  auto ranks = good(2);
  ranks[1].device_free = 59 * kGiB;
  Finding f = only(ranks);
  EXPECT_EQ(f.severity, Severity::error);
  EXPECT_THAT(f.text, HasSubstr("rank 1 (node0): 60.0 GiB of the device's memory needed, 59.0 "
                                "GiB free"));
  EXPECT_THAT(f.bad_hosts, ElementsAre("node0"));
  ranks = good(2);
  ranks[3].host_available = 19 * kGiB;  // two ranks of 10 GiB
  f = only(ranks);
  EXPECT_THAT(f.text, HasSubstr("ranks 2-3 (node1): 20.0 GiB of the node's memory needed, 19.0 "
                                "GiB free"));
  ranks[3].host_available = 20 * kGiB;
  EXPECT_THAT(texts(judge(ranks, needs())), IsEmpty());
  // Ranks that share a device need its memory together.
  ranks[1].device_place = ranks[0].device_place;
  EXPECT_THAT(texts(judge_memory(ranks)),
              ElementsAre(HasSubstr("ranks 0-1 (node0): 120 GiB of the device's memory")));
}

TEST(PreflightJudge, Data) {
  auto ranks = good(3);
  ranks[5].data = "";
  ranks[5].data_problem = "/data/pile.bin: no such file";
  Finding f = only(ranks);
  EXPECT_THAT(f.text, HasSubstr("rank 5 (node2): /data/pile.bin: no such file"));
  EXPECT_THAT(f.bad_hosts, ElementsAre("node2"));
  ranks = good(3);
  ranks[2].data = ranks[3].data = "train data ffff";
  f = only(ranks);
  EXPECT_EQ(f.severity, Severity::error);
  EXPECT_THAT(f.text, HasSubstr("ranks 2-3 (node1): the dataset is 'train data ffff', that of the "
                                "others 'train data 1a2b'"));
  // Half and half: rank 0's is taken for right.
  ranks = good(2);
  ranks[2].data = ranks[3].data = "a";
  EXPECT_THAT(only(ranks).text, HasSubstr("ranks 2-3 (node1)"));
}

TEST(PreflightJudge, RoomForCheckpoints) {
  auto ranks = good(2);
  ranks[0].disk_free = 399 * kGiB;
  Finding f = only(ranks);
  EXPECT_EQ(f.severity, Severity::error);
  EXPECT_THAT(f.text, HasSubstr("4 checkpoints of 100 GiB in /scratch/run: 400 GiB needed, "
                                "399 GiB free"));
  EXPECT_THAT(f.bad_hosts, IsEmpty());
  RunNeeds run = needs();
  run.existing = 1;  // takes its room already
  EXPECT_THAT(texts(judge(ranks, run)), IsEmpty());
  run.existing = 7;  // one more must fit in any case
  ranks[0].disk_free = 99 * kGiB;
  EXPECT_THAT(only(ranks, run).text, HasSubstr("1 checkpoint of 100 GiB"));
  run = needs();
  run.keep_last = 0;
  run.at_the_end = 20;
  ranks[0].disk_free = 1000 * kGiB;
  f = only(ranks, run);
  EXPECT_EQ(f.severity, Severity::warning);
  EXPECT_THAT(f.text, HasSubstr("the disk will be full before the run's end"));
  run.checkpoint_directory.clear();
  EXPECT_THAT(texts(judge(ranks, run)), IsEmpty());
}

TEST(PreflightJudge, ACheckpointDirectoryThatCannotBeWritten) {
  auto ranks = good(3);
  ranks[2].checkpoint_problem = "open of /scratch/run/x: Read-only file system";
  const Finding f = only(ranks);
  EXPECT_EQ(f.severity, Severity::error);
  EXPECT_THAT(f.text, HasSubstr("rank 2 (node1): open of /scratch/run/x: Read-only"));
  EXPECT_THAT(f.bad_hosts, ElementsAre("node1"));
}

TEST(PreflightJudge, LimitsOfANode) {
  auto ranks = good(2);
  ranks[2].shm_free = kGiB / 16;  // 32 MiB and 64 MiB for each of two GPUs are needed
  Finding f = only(ranks);
  EXPECT_EQ(f.severity, Severity::error);
  EXPECT_THAT(f.text, HasSubstr("(node1): /dev/shm has 64.0 MiB free, 160 MiB are needed"));
  ranks = good(2);
  ranks[1].open_files = 256;
  EXPECT_THAT(only(ranks).text, HasSubstr("(node0): 256 files may be open"));
  ranks = good(2);
  ranks[0].threads = 16;
  f = only(ranks);
  EXPECT_EQ(f.severity, Severity::warning);
  EXPECT_THAT(f.text, HasSubstr("(node0): 24 threads on 16 cores"));
  ranks = good(2);
  ranks[3].cores = 1;
  EXPECT_THAT(only(ranks).text, HasSubstr("(node1): 8 threads of a rank on fewer cores"));
}

TEST(PreflightJudge, Clocks) {
  auto ranks = good(5);
  for (RankFacts& r : ranks) r.clock_offset = r.leads_node ? 0.3 : 0;
  EXPECT_THAT(texts(judge(ranks, needs())), IsEmpty());
  ranks[4].clock_offset = -61.7;
  const Finding f = only(ranks);
  EXPECT_EQ(f.severity, Severity::warning);
  EXPECT_THAT(f.text, HasSubstr("node2: the clock is 62.0 s behind the others"));
}

TEST(PreflightJudge, ASlowDevice) {
  auto ranks = good(4);
  ranks[5].speeds["product"] = 541;
  EXPECT_THAT(texts(judge(ranks, needs())), IsEmpty()) << "less than 10 % below";
  ranks[5].speeds["product"] = 300;
  const Finding f = only(ranks);
  EXPECT_EQ(f.severity, Severity::slow);
  EXPECT_THAT(f.text, HasSubstr("rank 5 (node2): matrix product 300 TFLOP/s, 50 % below the median "
                                "of 600"));
  EXPECT_THAT(f.bad_hosts, ElementsAre("node2"));
  RunNeeds run = needs();
  run.slow_threshold = 0.6;
  EXPECT_THAT(texts(judge(ranks, run)), IsEmpty());
  ranks[5].speeds["product"] = 1;
  run.slow_threshold = 1;
  EXPECT_THAT(texts(judge(ranks, run)), IsEmpty());
}

TEST(PreflightJudge, ASlowNodeIsOneFinding) {
  auto ranks = good(4);
  ranks[2].speeds["network"] = 20;
  ranks[3].speeds["network"] = 10;
  const Finding f = only(ranks);
  EXPECT_THAT(f.text, HasSubstr("ranks 2-3 (node1): network to other nodes 10 GB/s, 75 % below"));
}

TEST(PreflightJudge, TheDiskMayVary) {
  auto ranks = good(4);
  ranks[6].speeds["disk"] = 1.1;
  EXPECT_THAT(texts(judge(ranks, needs())), IsEmpty());
  ranks[6].speeds["disk"] = 0.9;
  EXPECT_THAT(only(ranks).text, HasSubstr("rank 6 (node3): write to the checkpoint directory"));
}

TEST(PreflightJudge, ASlowGroupAmongItsLike) {
  auto ranks = good(4);
  for (RankFacts& r : ranks) {
    const int first = r.rank / 2 * 2;
    r.groups["tensor"] = {first, first + 1};
    r.speeds["tensor"] = 200;
  }
  EXPECT_THAT(texts(judge(ranks, needs())), IsEmpty());
  ranks[4].speeds["tensor"] = 90;
  Finding f = only(ranks);
  EXPECT_EQ(f.severity, Severity::slow);
  EXPECT_THAT(f.text, HasSubstr("ranks 4-5 (node2): all-reduce of the tensor group 90 GB/s, 55 %"));
  EXPECT_THAT(f.bad_hosts, ElementsAre("node2"));
  // Of several nodes: the group is named, but none of its nodes is blamed.
  for (RankFacts& r : ranks) {
    r.groups["tensor"] = {r.rank / 4 * 4 + r.rank % 2, r.rank / 4 * 4 + r.rank % 2 + 2};
    r.speeds["tensor"] = 200;
  }
  ranks[1].speeds["tensor"] = ranks[3].speeds["tensor"] = 90;
  f = only(ranks);
  EXPECT_THAT(f.text, HasSubstr("ranks 1, 3 (node0, node1)"));
  EXPECT_THAT(f.bad_hosts, IsEmpty());
  // A group inside a node is not compared with one across nodes.
  ranks = good(4);
  ranks[0].groups["tensor"] = ranks[1].groups["tensor"] = {0, 1};
  ranks[0].speeds["tensor"] = ranks[1].speeds["tensor"] = 200;
  for (const int r : {2, 4}) {
    ranks[static_cast<std::size_t>(r)].groups["tensor"] = {2, 4};
    ranks[static_cast<std::size_t>(r)].speeds["tensor"] = 20;
  }
  EXPECT_THAT(texts(judge(ranks, needs())), IsEmpty());
}

TEST(PreflightJudge, ErrorsComeFirstAndDecideTheExitCode) {
  auto ranks = good(3);
  EXPECT_EQ(exit_code_of(judge(ranks, needs())), 0);
  ranks[1].open_files = 100;
  EXPECT_EQ(exit_code_of(judge(ranks, needs())), 0);
  ranks[3].speeds["product"] = 100;
  EXPECT_EQ(exit_code_of(judge(ranks, needs())), kExitSlow);
  ranks[5].data_problem = "gone";
  const auto found = judge(ranks, needs());
  EXPECT_EQ(exit_code_of(found), kExitFailure);
  ASSERT_EQ(found.size(), 3u);
  EXPECT_EQ(found[0].severity, Severity::error);
  EXPECT_EQ(found[1].severity, Severity::slow);
  EXPECT_EQ(found[2].severity, Severity::warning);
}

TEST(PreflightReport, NamesNodesAndWhatToDo) {
  auto ranks = good(3);
  ranks[3].speeds["product"] = 100;
  ranks[5].data_problem = "gone";
  const std::string text = preflight_text(ranks, judge(ranks, needs()));
  EXPECT_THAT(text,
              AllOf(HasSubstr("preflight of 6 ranks on 3 nodes"), HasSubstr("TFLOP/s"),
                    HasSubstr("error: rank 5 (node2): gone\n"), HasSubstr("slow: rank 3 (node1): "),
                    HasSubstr("without: sbatch --exclude=node2 ...\n"),
                    HasSubstr("preflight failed: 1 error\n")));
  EXPECT_THAT(text, ::testing::ContainsRegex("\n  node0  +2  +600 .*\n  node1  +2  +100 "));
  ranks[5].data_problem.clear();
  EXPECT_THAT(preflight_text(ranks, judge(ranks, needs())),
              AllOf(HasSubstr("without: sbatch --exclude=node1 ...\n"),
                    HasSubstr("preflight: nothing is wrong, but not all is equally fast\n")));
  EXPECT_THAT(preflight_text(good(3), {}),
              AllOf(HasSubstr("preflight passed\n"), Not(HasSubstr("exclude"))));
}

TEST(PreflightReport, OfManyNodesOnlyTheOutliersAreShown) {
  auto ranks = good(100);
  ranks[31].speeds["product"] = 100;
  const std::string text = preflight_text(ranks, judge(ranks, needs()));
  EXPECT_THAT(text, ::testing::ContainsRegex("\n  node15  +2  +100 "));
  EXPECT_THAT(text, Not(HasSubstr("  node16 ")));
  EXPECT_THAT(text, ::testing::ContainsRegex("\n  least +100 .*\n  median +600 .*\n  most +600 "));
}

TEST(PreflightFacts, SurviveTheJourneyAsText) {
  RankFacts r = good(2)[2];
  r.checkpoint_problem = "a \"quoted\"\nline \xff";
  r.groups["data"] = {0, 2};
  r.clock_offset = -1.25;
  const RankFacts back = facts_from_text(to_text(r));
  EXPECT_EQ(back.rank, 2);
  EXPECT_EQ(back.host, "node1");
  EXPECT_EQ(back.versions, r.versions);
  EXPECT_EQ(back.speeds, r.speeds);
  EXPECT_EQ(back.groups, r.groups);
  EXPECT_EQ(back.device_free, r.device_free);
  EXPECT_EQ(back.clock_offset, r.clock_offset);
  EXPECT_TRUE(back.leads_node);
  EXPECT_THAT(back.checkpoint_problem, HasSubstr("a \"quoted\"\nline"));
}

}  // namespace
}  // namespace neox
