#pragma once
// neox_train --preflight: looks at every node of a job before it trains.

#include <functional>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "core/config/config.h"
#include "core/train/preflight_facts.h"
#include "core/train/preflight_judge.h"

namespace neox {

struct PreflightOptions {
  std::string host;  ///< this rank's node; tests give others
  /// Tests change here what this rank measured, before the ranks exchange it.
  std::function<void(RankFacts&)> alter = {};
};

/// Equal on all ranks.
struct PreflightReport {
  int exit_code = 0;
  std::string text;
  std::vector<RankFacts> ranks;
  std::vector<Finding> findings;
};

/// Measures and judges; trains nothing, and leaves nothing behind but the checkpoint directory.
/// `config` is resolved for world.size() ranks, with the vocabulary size known. `node`: the ranks
/// of this rank's node. A rank's failure becomes a finding. Collective; throws the same Error
/// everywhere when ranks differ in program or configuration.
PreflightReport run_preflight(Communicator& world, Communicator& node, const Config& config,
                              const PreflightOptions& options);

}  // namespace neox
