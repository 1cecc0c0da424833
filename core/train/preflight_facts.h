#pragma once
// What a preflight measures on every rank, as plain data that the judgement reads.

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace neox {

/// A speed that ranks are compared by.
enum class Speed : std::uint8_t {
  product,
  memory,
  network,
  disk,
  tensor,
  data,
  pipe,
  world,
  count
};
constexpr std::size_t kSpeeds = static_cast<std::size_t>(Speed::count);

struct SpeedInfo {
  std::string_view key;   ///< in RankFacts::speeds
  std::string_view name;  ///< for people
  std::string_view unit;
  bool of_group;  ///< ranks of one group share it; a group is slow, not a rank
};
const SpeedInfo& info_of(Speed speed);

/// One rank's. A problem is a text for people, empty when all went well; -1: not known.
struct RankFacts {
  int rank = 0;
  std::string host;
  bool leads_node = false;  ///< the node's first rank: what is the node's is measured here
  std::map<std::string, std::string> versions;

  std::string device = "cpu";  ///< cpu, cuda, simulated
  std::string device_model;
  std::string device_place;  ///< equal: the same hardware (DeviceRuntime::physical_name)
  std::string device_problem, why_not_cuda;
  std::int64_t device_needed = -1, device_free = -1;  // bytes

  std::int64_t host_needed = -1;     ///< bytes, by this rank
  std::int64_t host_available = -1;  ///< bytes, to all ranks of the node
  std::int64_t cores = -1;           ///< that this process may run on
  std::int64_t node_cores = -1, threads = -1, open_files = -1;
  std::int64_t shm_free = -1;  ///< bytes of /dev/shm

  std::string data, data_problem;  ///< fingerprint
  std::string checkpoint_problem;
  std::int64_t disk_free = -1;  ///< bytes, in the checkpoint directory

  bool has_clock = false;
  double clock_offset = 0.0;  ///< seconds before rank 0's clock

  std::map<std::string, double> speeds;            ///< by SpeedInfo::key; only what was measured
  std::map<std::string, std::vector<int>> groups;  ///< the ranks of speeds of a group

  /// 0 when it was not measured.
  double speed(Speed which) const;
};

std::string to_text(const RankFacts& facts);
/// Inverse of to_text.
RankFacts facts_from_text(const std::string& text);

/// What the run needs that no rank knows alone.
struct RunNeeds {
  double slow_threshold = 0.1;
  std::string checkpoint_directory;   ///< empty: none is written
  std::int64_t checkpoint_bytes = 0;  ///< of one checkpoint
  std::int64_t keep_last = 0;         ///< keep_last_n_checkpoints; 0: all
  std::int64_t existing = 0;          ///< checkpoints in the directory
  std::int64_t at_the_end = 0;        ///< that will be there when the run is done
};

}  // namespace neox
