#pragma once
// What is wrong with the nodes of a job, from what their ranks measured. Pure functions.

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/train/preflight_facts.h"

namespace neox {

enum class Severity : std::uint8_t {
  error,   ///< the run would fail, or not be the run that was asked for
  slow,    ///< it would run, at the pace of this one
  warning  ///< worth knowing
};

struct Finding {
  Severity severity = Severity::error;
  std::string text;  ///< one line: who, what was found, what was expected, what to do
  /// The nodes to leave out, where it lies with some of them and not with the input.
  std::vector<std::string> bad_hosts;
};

/// Everything that is wrong, errors first. `ranks`: every rank of the job, in order.
std::vector<Finding> judge(std::span<const RankFacts> ranks, const RunNeeds& needs);

// ---- its parts ----------------------------------------------------------------------------------

/// A library whose version differs from that of the most ranks.
std::vector<Finding> judge_versions(std::span<const RankFacts> ranks);
/// Devices that are missing or fail; of another kind or model than the most; shared by ranks.
std::vector<Finding> judge_devices(std::span<const RankFacts> ranks);
/// What the ranks of a node need against what it has.
std::vector<Finding> judge_memory(std::span<const RankFacts> ranks);
/// Data that cannot be opened, or differs from that of the most ranks.
std::vector<Finding> judge_data(std::span<const RankFacts> ranks);
/// The checkpoint directory: writable everywhere, and with room for keep_last + 1 checkpoints.
std::vector<Finding> judge_disk(std::span<const RankFacts> ranks, const RunNeeds& needs);
/// /dev/shm, open files, threads against cores, clocks.
std::vector<Finding> judge_node_limits(std::span<const RankFacts> ranks);
/// Ranks, and groups, slower than the median of their kind by more than the threshold. The disk is
/// shared and varies: there it takes half the median.
std::vector<Finding> judge_speeds(std::span<const RankFacts> ranks, double threshold);

}  // namespace neox
