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

void check(const TokenDataset& dataset, const BatchLoaderOptions& o, std::int64_t consumed) {
  require(o.train_batch_size >= 1 && o.micro_batch >= 1 && o.dp_size >= 1 && o.dp_rank >= 0 &&
              o.dp_rank < o.dp_size && o.prefetch >= 1 && consumed >= 0,
          "impossible batches: train_batch_size {}, micro-batch {}, data-parallel rank {} of {}, "
          "prefetch {}, {} samples consumed",
          o.train_batch_size, o.micro_batch, o.dp_rank, o.dp_size, o.prefetch, consumed);
  require(o.micro_batch <= o.train_batch_size / o.dp_size &&
              o.train_batch_size % (o.micro_batch * o.dp_size) == 0,
          "train_batch_size {} is not a multiple of micro-batch {} x {} data-parallel ranks",
          o.train_batch_size, o.micro_batch, o.dp_size);
  require(!o.eod_mask_loss || o.eod >= 0,
          "eod_mask_loss needs an end-of-document token, and the tokenizer has none");
  const std::int64_t have = dataset.size();
  const std::int64_t left = have - std::min(consumed, have);
  require(o.steps_needed <= left / o.train_batch_size,
          "not enough {0} samples: there are {1}, {2} are consumed, and {3} steps of {4} are still "
          "needed: open the dataset with {4} x all steps of the run",
          name_of(dataset.part()), have, consumed, o.steps_needed, o.train_batch_size);
}

// Fills the batches of one rank.
class BatchReader {
 public:
  BatchReader(const TokenDataset& dataset, const BatchLoaderOptions& options)
      : dataset_(dataset),
        options_(options),
        row_(static_cast<std::size_t>(dataset.seq_length() + 1)),
        label_row_(dataset.has_labels() ? row_.size() : 0) {}

  std::int64_t accumulation_steps() const {
    return options_.train_batch_size / (options_.micro_batch * options_.dp_size);
  }

  StepBatch make_step() const {
    StepBatch step;
    const auto n = static_cast<std::size_t>(options_.micro_batch * dataset_.seq_length());
    for (std::int64_t a = 0; a < accumulation_steps(); ++a) {
      MicroBatch batch;
      batch.tokens.resize(n);
      batch.labels.resize(n);
      batch.loss_mask.resize(n);
      batch.first_sample = (a * options_.dp_size + options_.dp_rank) * options_.micro_batch;
      step.micro_batches.push_back(std::move(batch));
    }
    return step;
  }

  void fill(std::int64_t consumed, StepBatch& step) {
    step.consumed_samples = consumed;
    step.loss_tokens = 0;
    for (MicroBatch& batch : step.micro_batches) {
      for (std::int64_t b = 0; b < options_.micro_batch; ++b) {
        step.loss_tokens += fill_row(consumed + batch.first_sample + b, batch, b);
      }
    }
  }

 private:
  // Returns the tokens that count.
  std::int64_t fill_row(std::int64_t sample, MicroBatch& batch, std::int64_t b) {
    dataset_.sample(sample, row_);
    check_row(sample, row_, false);
    const std::vector<std::int32_t>* labels = &row_;
    if (dataset_.has_labels()) {
      dataset_.sample_labels(sample, label_row_);
      check_row(sample, label_row_, true);
      labels = &label_row_;
    }
    const auto seq_length = row_.size() - 1;
    const std::size_t at = static_cast<std::size_t>(b) * seq_length;
    std::int64_t counted = 0;
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
  std::vector<std::int32_t> row_;        // [seq_length + 1]
  std::vector<std::int32_t> label_row_;  // the same, with label files
};

}  // namespace

// A ring of prefetch + 1 steps: the thread fills ahead, the caller holds the one handed out last.
struct BatchLoader::State {
  State(const TokenDataset& dataset, const BatchLoaderOptions& options, std::int64_t consumed)
      : reader(dataset, options),
        batch_size(options.train_batch_size),
        steps_left((dataset.size() - std::min(consumed, dataset.size())) / batch_size),
        samples(dataset.size()),
        part(name_of(dataset.part())),
        start(consumed),
        ring(static_cast<std::size_t>(std::min(options.prefetch, steps_left + 1)) + 1,
             reader.make_step()),
        worker([this](std::stop_token stop) { run(stop); }) {}

  void run(const std::stop_token& stop) {
    try {
      for (std::int64_t step = 0; step < steps_left; ++step) {
        {
          std::unique_lock lock(mutex);
          // One slot stays with the caller.
          const auto room = [&] {
            return step - handed_out < static_cast<std::int64_t>(ring.size()) - 1;
          };
          if (!changed.wait(lock, stop, room)) return;
        }
        reader.fill(start + step * batch_size, slot(step));
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
    require(handed_out < steps_left,
            "the {} dataset has ended: of its {} samples {} are consumed, and a step takes {}. "
            "Open the "
            "dataset with the samples of all steps of the run",
            part, samples, start + handed_out * batch_size, batch_size);
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return filled > handed_out || error; });
    if (filled <= handed_out) std::rethrow_exception(error);
    StepBatch& step = slot(handed_out);
    ++handed_out;
    changed.notify_all();
    return step;
  }

  BatchReader reader;
  std::int64_t batch_size;
  std::int64_t steps_left;  // whole steps in the dataset from the start
  std::int64_t samples;
  std::string part;
  std::int64_t start;  // samples consumed before
  std::vector<StepBatch> ring;
  std::mutex mutex;
  std::condition_variable_any changed;
  std::int64_t filled = 0;      // steps ready, from the start
  std::int64_t handed_out = 0;  // steps given to the caller
  std::exception_ptr error;
  std::jthread worker;  // last: it uses everything above
};

BatchLoader::BatchLoader(const TokenDataset& dataset, const BatchLoaderOptions& options,
                         std::int64_t consumed_samples) {
  check(dataset, options, consumed_samples);
  state_ = std::make_unique<State>(dataset, options, consumed_samples);
}
BatchLoader::~BatchLoader() = default;
BatchLoader::BatchLoader(BatchLoader&&) noexcept = default;
BatchLoader& BatchLoader::operator=(BatchLoader&&) noexcept = default;

const StepBatch& BatchLoader::next() {
  return state_->next();
}

std::int64_t BatchLoader::consumed_samples() const {
  return state_->start + state_->handed_out * state_->batch_size;
}

std::int64_t BatchLoader::gradient_accumulation_steps() const {
  return state_->reader.accumulation_steps();
}

}  // namespace neox
