#include "io/data/batch_loader.h"

#include <algorithm>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>

#include "core/base/error.h"

namespace neox {
namespace {

void check_size(const char* what, std::int64_t batch, const BatchLoaderOptions& o) {
  require(o.micro_batch <= batch / o.dp_size && batch % (o.micro_batch * o.dp_size) == 0,
          "{} {} is not a multiple of micro-batch {} x {} data-parallel ranks", what, batch,
          o.micro_batch, o.dp_size);
}

void check(const TokenDataset& dataset, const BatchLoaderOptions& o, const DataPosition& start) {
  const BatchSizes& sizes = o.batch_sizes;
  const std::int64_t consumed = start.consumed_samples;
  require(sizes.full() >= 1 && o.micro_batch >= 1 && o.dp_size >= 1 && o.dp_rank >= 0 &&
              o.dp_rank < o.dp_size && o.prefetch >= 1 && consumed >= 0,
          "impossible batches: train_batch_size {}, micro-batch {}, data-parallel rank {} of {}, "
          "prefetch {}, {} samples consumed",
          sizes.full(), o.micro_batch, o.dp_rank, o.dp_size, o.prefetch, consumed);
  require(start.next_sample >= 0, "impossible position {} in the order of samples",
          start.next_sample);
  check_size("train_batch_size", sizes.full(), o);
  if (sizes.grows()) {
    check_size("the first batch of rampup_batch_size,", sizes.rampup().start, o);
    check_size("the increment of rampup_batch_size,", sizes.rampup().increment, o);
  }
  require((!o.eod_mask_loss && !o.find_documents) || o.eod >= 0,
          "{} needs an end-of-document token, and the tokenizer has none",
          o.eod_mask_loss ? "eod_mask_loss" : "the search for documents");
  const std::int64_t have = dataset.size();
  require(o.steps_needed == 0 ||
              (o.steps_needed <= have && sizes.after(consumed, o.steps_needed) <= have),
          "not enough {} samples: there are {}, {} are consumed, and {} steps of {}{} are still "
          "needed: open the dataset with the samples of all steps of the run",
          name_of(dataset.part()), have, consumed, o.steps_needed,
          sizes.at(consumed) < sizes.full() ? fmt::format("{} to ", sizes.at(consumed)) : "",
          sizes.full());
}

// Fills the batches of one rank.
class BatchReader {
 public:
  BatchReader(const TokenDataset& dataset, const BatchLoaderOptions& options)
      : dataset_(dataset),
        options_(options),
        order_(dataset.size(), options.skipped),
        row_(static_cast<std::size_t>(dataset.seq_length() + 1)),
        label_row_(dataset.has_labels() ? row_.size() : 0) {}

  std::int64_t accumulation_steps(std::int64_t batch) const {
    return batch / (options_.micro_batch * options_.dp_size);
  }

  /// The step from `at` on.
  void fill(const DataPosition& at, StepBatch& step) {
    step.consumed_samples = at.consumed_samples;
    step.samples = options_.batch_sizes.at(at.consumed_samples);
    // Not beyond what is skipped next: a run that resumes with another list decides anew.
    step.next_sample = order_.find(at.next_sample, step.samples - 1) + 1;
    step.loss_tokens = 0;
    take_micro_batches(accumulation_steps(step.samples), step);
    for (MicroBatch& batch : step.micro_batches) {
      for (std::int64_t b = 0; b < options_.micro_batch; ++b) {
        const std::int64_t position = order_.find(at.next_sample, batch.first_sample + b);
        step.loss_tokens += fill_row(order_.sample(position), batch, b);
      }
    }
  }

 private:
  void take_micro_batches(std::int64_t count, StepBatch& step) const {
    const auto tokens = static_cast<std::size_t>(options_.micro_batch * dataset_.seq_length());
    step.micro_batches.reserve(static_cast<std::size_t>(count));
    for (auto a = static_cast<std::int64_t>(step.micro_batches.size()); a < count; ++a) {
      MicroBatch batch;
      batch.tokens.resize(tokens);
      batch.labels.resize(tokens);
      batch.loss_mask.resize(tokens);
      if (options_.find_documents) batch.documents.resize(tokens);
      batch.samples.resize(static_cast<std::size_t>(options_.micro_batch));
      batch.origins.resize(static_cast<std::size_t>(options_.micro_batch));
      batch.first_sample = (a * options_.dp_size + options_.dp_rank) * options_.micro_batch;
      step.micro_batches.push_back(std::move(batch));
    }
  }

  // Returns the tokens that count.
  std::int64_t fill_row(std::int64_t sample, MicroBatch& batch, std::int64_t b) {
    const auto row = static_cast<std::size_t>(b);
    batch.samples[row] = sample;
    batch.origins[row] = dataset_.sample(sample, row_);
    check_row(sample, row_, false);
    const std::vector<std::int32_t>* labels = &row_;
    if (dataset_.has_labels()) {
      dataset_.sample_labels(sample, label_row_);
      check_row(sample, label_row_, true);
      labels = &label_row_;
    }
    const auto seq_length = row_.size() - 1;
    const std::size_t at = row * seq_length;
    std::int64_t counted = 0;
    if (options_.find_documents) {
      std::size_t begin = 0;
      for (std::size_t t = 0; t < seq_length; ++t) {
        batch.documents[at + t] = static_cast<std::int32_t>(begin);
        if (row_[t] == options_.eod) begin = t + 1;
      }
    }
    for (std::size_t t = 0; t < seq_length; ++t) {
      const std::int32_t label = (*labels)[t + 1];
      const bool counts = label >= 0 && !(options_.eod_mask_loss && row_[t] == options_.eod);
      batch.tokens[at + t] = row_[t];
      batch.labels[at + t] = std::max(label, 0);
      batch.loss_mask[at + t] = counts ? 1.0f : 0.0f;
      counted += counts ? 1 : 0;
    }
    return counted;
  }

  void check_row(std::int64_t sample, const std::vector<std::int32_t>& row, bool labels) const {
    if (options_.vocab_size <= 0) return;
    const auto [low, high] = std::minmax_element(row.begin(), row.end());
    const bool low_ok = labels || *low >= 0;
    require(low_ok && *high < options_.vocab_size,
            "{} sample {} has {} {}, but the vocabulary has {} (0 … {}): the data was made with "
            "another "
            "tokenizer, or changed while it was read",
            name_of(dataset_.part()), sample, labels ? "label" : "token", low_ok ? *high : *low,
            options_.vocab_size, options_.vocab_size - 1);
  }

  const TokenDataset& dataset_;
  BatchLoaderOptions options_;
  SampleOrder order_;
  std::vector<std::int32_t> row_;        // [seq_length + 1]
  std::vector<std::int32_t> label_row_;  // the same, with label files
};

}  // namespace

// A ring of prefetch + 1 steps: the thread fills ahead, the caller holds the one handed out last.
struct BatchLoader::State {
  State(const TokenDataset& dataset, const BatchLoaderOptions& options, const DataPosition& start)
      : reader(dataset, options),
        sizes(options.batch_sizes),
        samples(dataset.size()),
        part(name_of(dataset.part())),
        consumed(start.consumed_samples),
        ring(ring_size(options, samples - std::min(consumed, samples))),
        worker([this, start](std::stop_token stop) { run(stop, start); }) {}

  // A dataset of fewer steps needs no more slots.
  static std::size_t ring_size(const BatchLoaderOptions& options, std::int64_t samples_left) {
    const BatchSizes& sizes = options.batch_sizes;
    const std::int64_t smallest = sizes.grows() ? sizes.rampup().start : sizes.full();
    return static_cast<std::size_t>(std::min(options.prefetch, samples_left / smallest + 1)) + 1;
  }

  bool ends_after(std::int64_t count) const { return sizes.at(count) > samples - count; }

  void run(const std::stop_token& stop, DataPosition at) {
    try {
      for (std::int64_t step = 0; !ends_after(at.consumed_samples); ++step) {
        {
          std::unique_lock lock(mutex);
          // One slot stays with the caller.
          const auto room = [&] {
            return step - handed_out < static_cast<std::int64_t>(ring.size()) - 1;
          };
          if (!changed.wait(lock, stop, room)) return;
        }
        reader.fill(at, slot(step));
        at.consumed_samples += slot(step).samples;
        at.next_sample = slot(step).next_sample;
        const std::lock_guard lock(mutex);
        filled = step + 1;
        changed.notify_all();
      }
    } catch (...) {
      const std::lock_guard lock(mutex);
      error = std::current_exception();
      changed.notify_all();
    }
  }

  StepBatch& slot(std::int64_t step) { return ring[static_cast<std::size_t>(step) % ring.size()]; }

  const StepBatch& next() {
    require(!ends_after(consumed),
            "the {} dataset has ended: of its {} samples {} are consumed, and a step takes {}. "
            "Open the dataset with the samples of all steps of the run",
            part, samples, consumed, sizes.at(consumed));
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return filled > handed_out || error; });
    if (filled <= handed_out) std::rethrow_exception(error);
    StepBatch& step = slot(handed_out);
    ++handed_out;
    consumed += step.samples;
    changed.notify_all();
    return step;
  }

  BatchReader reader;
  BatchSizes sizes;
  std::int64_t samples;  // of the dataset
  std::string part;
  std::int64_t consumed;  // by the run, with the steps handed out
  std::vector<StepBatch> ring;
  std::mutex mutex;
  std::condition_variable_any changed;
  std::int64_t filled = 0;      // steps ready, from the start
  std::int64_t handed_out = 0;  // steps given to the caller
  std::exception_ptr error;
  std::jthread worker;  // last: it uses everything above
};

BatchLoader::BatchLoader(const TokenDataset& dataset, const BatchLoaderOptions& options,
                         DataPosition start) {
  check(dataset, options, start);
  state_ = std::make_unique<State>(dataset, options, start);
}
BatchLoader::~BatchLoader() = default;
BatchLoader::BatchLoader(BatchLoader&&) noexcept = default;
BatchLoader& BatchLoader::operator=(BatchLoader&&) noexcept = default;

const StepBatch& BatchLoader::next() {
  return state_->next();
}

std::int64_t BatchLoader::consumed_samples() const {
  return state_->consumed;
}

std::int64_t BatchLoader::gradient_accumulation_steps() const {
  return state_->reader.accumulation_steps(state_->sizes.full());
}

}  // namespace neox
