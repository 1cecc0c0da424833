#pragma once
// The datasets of a run, opened from its configuration.

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "core/base/sample_ranges.h"
#include "core/config/config.h"
#include "io/data/batch_loader.h"
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
/// losses compare; they are absent when eval_interval or eval_iters is 0. `first`: samples that the
/// run had consumed before this data, which are not asked of it (data.when_changed = restart).
RunData open_run_data(const Config& config, std::int64_t first = 0);

/// The samples that a run leaves out: data.skip_sample_ranges, and `rewound`. Merged. Throws Error
/// when an option's range goes beyond the run's samples.
std::vector<SampleRange> skipped_samples(const Config& config, const RunData& data,
                                         std::span<const SampleRange> rewound);

/// Hands out the training samples of the `steps` steps left from `start` on, for a rank of the
/// data-parallel `group`; says what is left out. `first` as for open_run_data.
BatchLoader open_train_loader(const Config& config, const RunData& data, const DataPosition& start,
                              std::int64_t first, std::int64_t steps,
                              std::span<const SampleRange> rewound, const Communicator& group);
/// Hands out one validation's samples.
BatchLoader open_valid_loader(const Config& config, const RunData& data, const Communicator& group);

/// A line per part, "train 1a2b..." : equal on all ranks that read the same data.
std::string fingerprint(const RunData& data);

/// The table of proportions and epochs of what was opened.
std::string describe(const RunData& data);

}  // namespace neox
