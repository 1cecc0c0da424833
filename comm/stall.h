#pragma once
// Who of the ranks of a node holds the others up. Pure: no clocks, no processes.

#include <cstdint>
#include <span>
#include <string>

namespace neox {

/// What is seen of one rank; ages in seconds.
struct RankView {
  int rank = 0;
  int pid = 0;
  char process_state = 'R';  ///< as in /proc/<pid>/stat; '?': unknown
  double heartbeat_age = 0;
  double progress_age = 0;
  bool unlimited = false;  ///< in a phase without a limit
  std::string phase;
  std::int64_t step = -1, micro_batch = -1;
  std::string waits_in;    ///< "all_reduce of the data group"; empty: it doesn't wait
  bool on_device = false;  ///< in there it waits for its own device, not for others
};

/// A rank whose heartbeat is older does not run.
constexpr double kHeartbeatLost = 5.0;
/// Nodes on which all ranks only wait leave it this many seconds to another node to find the cause.
constexpr double kGraceForOtherNodes = 15.0;

/// "rank 2 (node1, process 4242) in step 7, forward, micro-batch 3, waiting in …".
std::string describe(const RankView& view, const std::string& host);

/// Empty when no rank has been without progress for `limit` seconds, or when one is in a phase
/// without limit that the others may be waiting for. Otherwise the report: the ranks that hold the
/// job up and how, then those that wait for them. `all_here`: the node has all ranks of the job.
std::string find_stall(std::span<const RankView> ranks, const std::string& host, double limit,
                       bool all_here);

}  // namespace neox
