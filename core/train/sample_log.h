#pragma once
// Which samples each step was trained on: logging.log_samples.

#include <cstdint>
#include <optional>
#include <string>

#include "comm/communicator.h"
#include "io/data/batch_loader.h"
#include "io/metrics/append_file.h"

namespace neox {

/// <directory>/samples.jsonl, one line a step:
///   {"step": 7, "samples": 8, "ids": [[48, 49, 52, 53], [50, 51, 54, 55]],
///    "origins": [[[0, 3, 96], ...], ...]}
/// ids[r]: the samples of data-parallel rank r as its loader delivered them, in the order of its
/// micro-batches; an id is a place in the run's order of samples (what data.skip_sample_ranges
/// takes). origins[r][i]: of the same sample, the token file (index in the list of paths), its
/// document and the token of that document at which the sample begins.
class SampleLog {
 public:
  /// `first_step`: steps already done; lines of later steps are dropped. Collective over `world`,
  /// whose rank 0 writes; throws the same Error everywhere when the file can't be written.
  SampleLog(Communicator& world, const std::string& directory, std::int64_t first_step);

  /// A line for the step that made `step` steps of the run. Collective over `data_group`. A line
  /// that can't be written (disk full) is lost; the first such is warned about.
  void add(std::int64_t step, const StepBatch& batch, Communicator& data_group);
  /// The run goes on after `step`: later lines are dropped. Collective as the constructor.
  void rewind(std::int64_t step);

 private:
  void open(std::int64_t step);

  Communicator& world_;
  std::string path_;
  std::optional<AppendFile> file_;  // on rank 0
  bool warned_ = false;
};

}  // namespace neox
