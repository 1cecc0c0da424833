#include "comm/stall.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace neox {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

RankView view(int rank, double progress_age, const std::string& waits_in = "") {
  RankView v;
  v.rank = rank;
  v.pid = 1000 + rank;
  v.progress_age = progress_age;
  v.phase = "forward";
  v.step = 7;
  v.micro_batch = 3;
  v.waits_in = waits_in;
  return v;
}

std::string stall(const std::vector<RankView>& ranks, double limit, bool all_here = true) {
  return find_stall(ranks, "node1", limit, all_here);
}

TEST(Stall, NoReportBeforeTheLimit) {
  EXPECT_EQ(stall({view(0, 9.9), view(1, 9.9, "all_reduce of the data group")}, 10), "");
  EXPECT_EQ(stall({}, 10), "");
}

TEST(Stall, TheOneThatIsStoppedIsToldFromThoseThatWait) {
  std::vector<RankView> ranks = {view(0, 10.1, "all_reduce of the data group"),
                                 view(1, 10.3, "recv from its rank 0 of the pipe_forward group"),
                                 view(2, 10.2, "all_reduce of the data group")};
  ranks[1].process_state = 'T';
  const std::string text = stall(ranks, 10);
  EXPECT_THAT(text,
              HasSubstr("held up by\n  rank 1 (node1, process 1001) in step 7, forward, "
                        "micro-batch 3, waiting in recv from its rank 0 of the pipe_forward "
                        "group is stopped (by SIGSTOP or a debugger), no progress for 10.3 s\n"
                        " these wait for others:\n  rank 0 (node1, process 1000)"));
  EXPECT_THAT(text, HasSubstr("rank 2"));
}

TEST(Stall, OneThatWaitsForItsDeviceIsToldFromThoseThatWaitForIt) {
  std::vector<RankView> ranks = {view(0, 10.1, "all_reduce of the data group"),
                                 view(1, 10.3, "all_reduce of the data group")};
  ranks[1].on_device = true;
  EXPECT_THAT(stall(ranks, 10),
              HasSubstr("held up by\n  rank 1 (node1, process 1001) in step 7, forward, "
                        "micro-batch 3, before all_reduce of the data group waits for its own "
                        "device"));
  EXPECT_THAT(stall(ranks, 10), HasSubstr("these wait for others:\n  rank 0"));
}

TEST(Stall, AStoppedRankIsNotBlamedBeforeTheLimit) {
  std::vector<RankView> ranks = {view(0, 3, "barrier of the world group"), view(1, 3)};
  ranks[1].process_state = 'T';
  EXPECT_EQ(stall(ranks, 10), "");
}

TEST(Stall, OneThatComputesForeverAndOneThatLostItsHeartbeat) {
  std::vector<RankView> ranks = {view(0, 11), view(1, 11), view(2, 10.5, "all_gather of the data")};
  ranks[1].heartbeat_age = 9;
  EXPECT_THAT(stall(ranks, 10),
              AllOf(HasSubstr("rank 0 (node1, process 1000) in step 7, forward, micro-batch 3 "
                              "computes or waits outside of communication"),
                    HasSubstr("rank 1 (node1, process 1001) in step 7, forward, micro-batch 3 does "
                              "not run: its heartbeat stopped 9 s ago")));
  ranks[1].process_state = 'D';
  EXPECT_THAT(stall(ranks, 10), HasSubstr("blocked in the kernel"));
}

TEST(Stall, WaitersAreExcusedByAPhaseWithoutLimit) {
  std::vector<RankView> ranks = {view(0, 500), view(1, 500, "barrier of the world group")};
  ranks[0].unlimited = true;
  EXPECT_EQ(stall(ranks, 10), "");
  ranks[0].unlimited = false;
  EXPECT_THAT(stall(ranks, 10), HasSubstr("held up by\n  rank 0"));
}

TEST(Stall, AnUnlimitedPhaseDoesNotExcuseAStoppedRank) {
  std::vector<RankView> ranks = {view(0, 500)};
  ranks[0].unlimited = true;
  ranks[0].process_state = 'T';
  EXPECT_THAT(stall(ranks, 10), HasSubstr("is stopped"));
}

TEST(Stall, AllWaitingIsADeadlockOrTheFaultOfAnotherNode) {
  const std::vector<RankView> ranks = {view(0, 11, "all_reduce of the data group"),
                                       view(1, 11, "barrier of the world group")};
  EXPECT_THAT(stall(ranks, 10),
              AllOf(HasSubstr("every rank waits for another one: they do not "
                              "make the same calls"),
                    HasSubstr("rank 0 "), HasSubstr("rank 1 "), Not(HasSubstr("held up"))));
  EXPECT_EQ(stall(ranks, 10, false), "");  // the node of the cause speaks first
  EXPECT_EQ(stall(ranks, 1, false), "");
  const std::vector<RankView> later = {view(0, 30, "all_reduce of the data group")};
  EXPECT_THAT(stall(later, 10, false), HasSubstr("every rank of this node waits for another one: "
                                                 "look for the cause on other nodes"));
}

TEST(Stall, LongListsAreCut) {
  std::vector<RankView> ranks;
  for (int r = 0; r < 40; ++r) ranks.push_back(view(r, 11, "barrier of the world group"));
  ranks[39].waits_in.clear();
  EXPECT_THAT(stall(ranks, 10), AllOf(HasSubstr("rank 39 "), HasSubstr("and 31 more")));
}

}  // namespace
}  // namespace neox
