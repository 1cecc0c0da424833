#pragma once
// The real program without memory, data or other ranks: what each rank of a job would need and do.

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "core/config/parse.h"
#include "core/train/engine.h"

namespace neox {

/// One rank of a job.
struct RankPlan {
  int rank = 0;
  Coordinates at;
  std::vector<ModelChunk> chunks;  ///< of the model, in forward order
  std::int64_t parameters = 0;     ///< of its part of the model (ZeRO shares their state)
  MemoryPlan memory;
  OperatorCounts work;                ///< of one step, repeated forward passes included
  std::vector<GroupTraffic> traffic;  ///< of one step

  /// Bytes that this rank sends at least in a step (link_bytes).
  double sent_bytes() const;
};

/// Runs two training steps of rank `rank` of `ranks` and reports the second: in the first one ZeRO
/// gathers weights twice. `config` is resolved for `ranks`, the vocabulary size known. Throws
/// Error.
RankPlan plan_rank(const Config& config, int rank, int ranks);

/// neox_train --dry-run [--rank R | --all-ranks] [--ranks N], as it was given.
struct DryRunRequest {
  static constexpr std::int64_t kNotGiven = std::numeric_limits<std::int64_t>::min();
  bool wanted = false, all_ranks = false;
  std::int64_t rank = kNotGiven, ranks = kNotGiven;

  /// Their declarations; they write into this object.
  std::vector<ProgramOption> options();
  /// Throws Error on combinations that mean nothing.
  void check() const;
};

/// The report for `request`. `started`: ranks of this job, which --ranks replaces; with one, the
/// job that is planned is the smallest that the configuration allows. Needs neither data nor, when
/// model.vocab_size is given, a tokenizer. Throws Error.
std::string dry_run_report(const DryRunRequest& request, const ParsedCommand& command, int started);

}  // namespace neox
