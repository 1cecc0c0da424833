#pragma once
// Batches for one data-parallel rank, read ahead on a thread.

#include <cstdint>
#include <memory>
#include <vector>

#include "io/data/batch_sizes.h"
#include "io/data/sample_order.h"
#include "io/data/token_dataset.h"

namespace neox {

/// Rows of one forward and backward pass, host memory, row-major.
struct MicroBatch {
  std::vector<std::int32_t> tokens;     // [micro_batch, seq_length]
  std::vector<std::int32_t> labels;     // [micro_batch, seq_length]: the next token; >= 0 always
  std::vector<float> loss_mask;         // [micro_batch, seq_length]: 1 counts, 0 does not
  /// [micro_batch, seq_length]: where in its row the document of a token begins, which is behind the
  /// last eod before it. Empty unless asked for.
  std::vector<std::int32_t> documents{};
  std::int64_t first_sample = 0;        // index of row 0 in the global batch
  std::vector<std::int64_t> samples{};  // [micro_batch]: what was read, in the dataset's order
  std::vector<SampleOrigin> origins{};  // [micro_batch]: where it begins in the token files
};

/// What one rank needs for one optimizer step.
struct StepBatch {
  std::vector<MicroBatch> micro_batches;  // [gradient accumulation steps]
  std::int64_t consumed_samples = 0;      // of the run, before this step
  std::int64_t next_sample = 0;           // position of the run in the order of samples, after it
  std::int64_t samples = 0;               // of this step, over all ranks
  std::int64_t loss_tokens = 0;           // sum of this rank's loss masks
};

struct BatchLoaderOptions {
  BatchSizes batch_sizes;                 // samples per step over all ranks
  std::vector<SampleRange> skipped = {};  // not handed out; may overlap and go beyond the dataset
  std::int64_t micro_batch = 0;           // samples per pass and rank
  std::int64_t dp_rank = 0;
  std::int64_t dp_size = 1;
  std::int64_t eod = -1;          // end-of-document token
  bool eod_mask_loss = false;     // no loss where the input token is eod
  bool find_documents = false;    // MicroBatch::documents
  std::int64_t vocab_size = 0;    // > 0: every token read is checked to be below it
  std::int64_t prefetch = 4;      // steps read ahead; >= 1
  std::int64_t steps_needed = 0;  // > 0: checked at construction that the dataset has them
};

/// Where a run stands in its data.
struct DataPosition {
  std::int64_t consumed_samples = 0;  ///< handed out so far
  std::int64_t next_sample = 0;       ///< position (SampleOrder) from which on samples are taken
};

/// Hands out the samples of a dataset in order. Row b of micro-batch a of DP rank r of step t is
/// sample number a D mb + r mb + b (D ranks, mb rows a micro-batch) of those that follow the step's
/// position and are not skipped: GPT-NeoX's order, in which the set of samples of a step does not
/// depend on how the batch is divided. The only state is a DataPosition: a run goes on, with
/// whatever batch size, ranks and list of skipped samples, by constructing at it. The number of
/// samples consumed alone decides how large a batch is; a batch that grows takes more
/// micro-batches. When samples were skipped, as many are taken from the order's beginning again at
/// its end.
class BatchLoader {
 public:
  /// `dataset` must outlive the loader. Throws Error when the sizes don't divide, or with how many
  /// samples there are, how many are needed and what to do.
  BatchLoader(const TokenDataset& dataset, const BatchLoaderOptions& options, DataPosition start);
  /// A run that skipped nothing so far.
  BatchLoader(const TokenDataset& dataset, const BatchLoaderOptions& options,
              std::int64_t consumed_samples)
      : BatchLoader(dataset, options, DataPosition{consumed_samples, consumed_samples}) {}
  ~BatchLoader();
  BatchLoader(BatchLoader&&) noexcept;
  BatchLoader& operator=(BatchLoader&&) noexcept;

  /// The next step's micro-batches, valid until the next call. Throws what reading them threw, or
  /// Error when the dataset has ended. Allocates nothing while the batch does not grow.
  const StepBatch& next();
  /// Samples consumed by the run after the steps handed out so far.
  std::int64_t consumed_samples() const;
  /// Micro-batches of a step of the full batch.
  std::int64_t gradient_accumulation_steps() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace neox
