#pragma once
// Whether a run that resumes still has the data that its checkpoint knows (data.when_changed).

#include <cstdint>
#include <string>

#include "core/config/config.h"
#include "core/train/data_source.h"

namespace neox {

/// Of a run's training data; kept in checkpoints.
struct DataMark {
  std::string content;     ///< TokenDataset::content_id in hex; empty: not known
  std::string order;       ///< TokenDataset::order_id
  std::int64_t first = 0;  ///< samples that the run had consumed when this data began
  friend bool operator==(const DataMark&, const DataMark&) = default;
};

DataMark mark_of(const RunData& data, std::int64_t first);

/// What a run does that stands at `consumed_samples`, with the mark of its checkpoint.
struct DataDecision {
  bool restarts = false;   ///< the samples are taken from the first on
  std::int64_t first = 0;  ///< what the data is to be opened with (open_run_data)
  std::string warning;     ///< empty: none
};
/// `stored`: the checkpoint's configuration, which says what is another in messages. Throws Error
/// when the data is not that of the checkpoint and data.when_changed = refuse.
DataDecision decide(const DataMark& before, const RunData& data, std::int64_t consumed_samples,
                    const Config& stored, const Config& config);

}  // namespace neox
