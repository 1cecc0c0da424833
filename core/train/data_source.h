#pragma once
// The datasets of a run, opened from its configuration.

#include <cstdint>
#include <optional>

#include "core/config/config.h"
#include "io/data/batch_sizes.h"
#include "io/data/token_dataset.h"

namespace neox {

struct RunData {
  std::optional<TokenDataset> train, valid;
};

/// The sizes of a run's steps.
BatchSizes batch_sizes(const BatchConfig& config);

/// Opens train and validation data (a configuration resolved for training; the vocabulary size
/// known) and checks every token and that there are enough samples. Training takes the samples of
/// train_iters steps. Every validation uses the same eval_iters global batches, so that its
/// losses compare; they are absent when eval_interval or eval_iters is 0.
RunData open_run_data(const Config& config);

/// A line per part, "train 1a2b..." : equal on all ranks that read the same data.
std::string fingerprint(const RunData& data);

/// The table of proportions and epochs of what was opened.
std::string describe(const RunData& data);

}  // namespace neox
