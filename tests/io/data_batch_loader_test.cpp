#include <algorithm>
#include <filesystem>
#include <set>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/base/error.h"
#include "io/data/batch_loader.h"
#include "tests/io/data_support.h"

namespace neox {
namespace {

using data_testing::error_of;
using data_testing::TempDir;
using ::testing::AllOf;
using ::testing::HasSubstr;
using Row = std::vector<std::int32_t>;

constexpr std::int64_t kSeq = 6;
constexpr std::int32_t kEod = 9;

class BatchLoaderTest : public ::testing::Test {
 protected:
  BatchLoaderTest() {
    auto documents = data_testing::counting_documents(80, 20, 5);
    for (auto& document : documents) document.push_back(kEod);
    data_testing::write_dataset(dir / "a", documents);
    dataset_ = open(200);
  }

  std::unique_ptr<TokenDataset> open(std::int64_t samples) {
    TokenDatasetOptions options;
    options.seq_length = kSeq;
    options.use_cache = false;
    return std::make_unique<TokenDataset>(std::make_shared<const IndexedDataset>(dir / "a"),
                                          DataPart::train, "1", samples, options);
  }

  Row sample(std::int64_t i) {
    Row row(kSeq + 1);
    dataset_->sample(i, row);
    return row;
  }

  TempDir dir;
  std::unique_ptr<TokenDataset> dataset_;
  Row scratch_ = Row(kSeq + 1);
};

BatchLoaderOptions options_for(std::int64_t batch, std::int64_t micro, std::int64_t rank = 0,
                               std::int64_t ranks = 1) {
  BatchLoaderOptions options;
  options.batch_sizes = batch;
  options.micro_batch = micro;
  options.dp_rank = rank;
  options.dp_size = ranks;
  return options;
}

Row row_of(const std::vector<std::int32_t>& batch, std::int64_t b) {
  return Row(batch.begin() + b * kSeq, batch.begin() + (b + 1) * kSeq);
}

// Step t, accumulation a, rank r, row b is sample ((t A + a) D + r) mb + b.
TEST_F(BatchLoaderTest, OrderIsThatOfGptNeox) {
  for (const auto& [micro, ranks] :
       {std::pair{1, 1}, {2, 1}, {3, 4}, {12, 1}, {1, 12}, {2, 3}, {6, 2}}) {
    for (std::int64_t rank = 0; rank < ranks; ++rank) {
      BatchLoader loader(*dataset_, options_for(12, micro, rank, ranks), 0);
      const std::int64_t accumulation = 12 / (micro * ranks);
      EXPECT_EQ(loader.gradient_accumulation_steps(), accumulation);
      for (std::int64_t t = 0; t < 10; ++t) {
        const StepBatch& step = loader.next();
        EXPECT_EQ(step.consumed_samples, 12 * t);
        ASSERT_EQ(static_cast<std::int64_t>(step.micro_batches.size()), accumulation);
        for (std::int64_t a = 0; a < accumulation; ++a) {
          const MicroBatch& batch = step.micro_batches[static_cast<std::size_t>(a)];
          EXPECT_EQ(batch.first_sample, (a * ranks + rank) * micro);
          for (std::int64_t b = 0; b < micro; ++b) {
            const Row want = sample(((t * accumulation + a) * ranks + rank) * micro + b);
            EXPECT_EQ(row_of(batch.tokens, b), Row(want.begin(), want.end() - 1));
            EXPECT_EQ(row_of(batch.labels, b), Row(want.begin() + 1, want.end()));
          }
          EXPECT_EQ(std::count(batch.loss_mask.begin(), batch.loss_mask.end(), 1.0f), micro * kSeq);
        }
        EXPECT_EQ(step.loss_tokens, accumulation * micro * kSeq);
        EXPECT_EQ(loader.consumed_samples(), 12 * (t + 1));
      }
    }
  }
}

std::multiset<Row> rows_of_step(const TokenDataset& dataset, std::int64_t consumed,
                                std::int64_t batch, std::int64_t micro, std::int64_t ranks) {
  std::multiset<Row> rows;
  for (std::int64_t rank = 0; rank < ranks; ++rank) {
    BatchLoader loader(dataset, options_for(batch, micro, rank, ranks), consumed);
    for (const auto& one : loader.next().micro_batches) {
      for (std::int64_t b = 0; b < micro; ++b) rows.insert(row_of(one.tokens, b));
    }
  }
  return rows;
}

TEST_F(BatchLoaderTest, TheSamplesOfAStepDoNotDependOnTheSplit) {
  const auto want = rows_of_step(*dataset_, 24, 24, 24, 1);
  EXPECT_EQ(want.size(), 24u);
  for (const auto& [micro, ranks] : {std::pair{1, 1}, {1, 24}, {2, 3}, {4, 2}, {6, 4}, {3, 8}}) {
    EXPECT_EQ(rows_of_step(*dataset_, 24, 24, micro, ranks), want);
  }
}

// Steps of 4, 4, 6, 6, 8, 10, 12, 12, ... samples, in the order of the dataset, however they are
// divided; also from the middle of the ramp-up on.
TEST_F(BatchLoaderTest, GrowingBatchesTakeTheSamplesInOrder) {
  const BatchSizes sizes(12, {4, 2, 30});
  for (const auto& [micro, ranks] : {std::pair{1, 1}, {2, 1}, {1, 2}}) {
    for (const std::int64_t skipped : {0, 1, 3, 9}) {
      std::vector<BatchLoader> loaders;
      for (std::int64_t rank = 0; rank < ranks; ++rank) {
        auto options = options_for(12, micro, rank, ranks);
        options.batch_sizes = sizes;
        options.steps_needed = 15 - skipped;
        loaders.emplace_back(*dataset_, options, sizes.after(0, skipped));
      }
      for (std::int64_t t = skipped; t < 15; ++t) {
        const std::int64_t begin = sizes.after(0, t), size = sizes.after(0, t + 1) - begin;
        std::vector<Row> rows(static_cast<std::size_t>(size));
        for (BatchLoader& loader : loaders) {
          const StepBatch& step = loader.next();
          EXPECT_EQ(step.consumed_samples, begin);
          EXPECT_EQ(step.samples, size);
          ASSERT_EQ(static_cast<std::int64_t>(step.micro_batches.size()), size / (micro * ranks));
          for (const MicroBatch& batch : step.micro_batches) {
            for (std::int64_t b = 0; b < micro; ++b) {
              rows.at(static_cast<std::size_t>(batch.first_sample + b)) = row_of(batch.tokens, b);
            }
          }
          EXPECT_EQ(loader.consumed_samples(), begin + size);
        }
        for (std::int64_t i = 0; i < size; ++i) {
          const Row want = sample(begin + i);
          EXPECT_EQ(rows[static_cast<std::size_t>(i)], Row(want.begin(), want.end() - 1));
        }
      }
    }
  }
}

TEST_F(BatchLoaderTest, GrowingBatchesCountTheirSamples) {
  auto options = options_for(8, 1);
  options.batch_sizes = BatchSizes(8, {2, 2, 20});
  while (options.batch_sizes.after(0, options.steps_needed + 1) <= dataset_->size()) {
    ++options.steps_needed;
  }
  BatchLoader loader(*dataset_, options, 0);
  for (std::int64_t t = 0; t < options.steps_needed; ++t) loader.next();
  EXPECT_THAT(error_of([&] { loader.next(); }), HasSubstr("has ended"));
  ++options.steps_needed;
  EXPECT_THAT(error_of([&] { BatchLoader(*dataset_, options, 0); }), HasSubstr("steps of 2 to 8"));
  options.steps_needed = 0;
  options.dp_size = 4;
  EXPECT_THAT(error_of([&] { BatchLoader(*dataset_, options, 0); }),
              HasSubstr("first batch of rampup_batch_size, 2 is not a multiple"));
}

TEST_F(BatchLoaderTest, GoesOnFromAnyNumberOfConsumedSamples) {
  for (const std::int64_t consumed : {0, 1, 7, 48, 100}) {
    for (const std::int64_t batch : {1, 4, 10}) {
      BatchLoader loader(*dataset_, options_for(batch, 1), consumed);
      for (std::int64_t t = 0; t < 5; ++t) {
        const StepBatch& step = loader.next();
        EXPECT_EQ(step.consumed_samples, consumed + t * batch);
        for (std::int64_t a = 0; a < batch; ++a) {
          const Row want = sample(consumed + t * batch + a);
          EXPECT_EQ(step.micro_batches[static_cast<std::size_t>(a)].tokens,
                    Row(want.begin(), want.end() - 1));
        }
      }
    }
  }
}

bool skips(const std::vector<SampleRange>& ranges, std::int64_t sample) {
  return std::any_of(ranges.begin(), ranges.end(), [&](const SampleRange& range) {
    return range.first <= sample && sample <= range.last;
  });
}

// Every rank of 1, 2 and 3; the ids say what the rows really hold.
TEST_F(BatchLoaderTest, SkippedSamplesAreReplacedByTheNext) {
  const std::vector<SampleRange> ranges = {{0, 2}, {13, 31}, {30, 40}, {60, 60}};
  std::vector<std::int64_t> expected;
  for (std::int64_t s = 0; static_cast<std::int64_t>(expected.size()) < 12 * 8; ++s) {
    if (!skips(ranges, s)) expected.push_back(s);
  }
  for (const std::int64_t ranks : {1, 2, 3}) {
    std::vector<std::int64_t> found(expected.size(), -1);
    for (std::int64_t rank = 0; rank < ranks; ++rank) {
      BatchLoaderOptions options = options_for(12, 2, rank, ranks);
      options.skipped = ranges;
      BatchLoader loader(*dataset_, options, 0);
      for (std::int64_t t = 0; t < 8; ++t) {
        const StepBatch& step = loader.next();
        EXPECT_EQ(step.consumed_samples, 12 * t);
        EXPECT_EQ(step.samples, 12);
        EXPECT_EQ(step.next_sample, expected[static_cast<std::size_t>(12 * t + 11)] + 1);
        for (const MicroBatch& batch : step.micro_batches) {
          for (std::size_t b = 0; b < 2; ++b) {
            Row row = sample(batch.samples[b]);
            row.pop_back();
            EXPECT_EQ(row_of(batch.tokens, static_cast<std::int64_t>(b)), row);
            EXPECT_EQ(batch.origins[b], dataset_->sample(batch.samples[b], scratch_));
            found[static_cast<std::size_t>(12 * t + batch.first_sample) + b] = batch.samples[b];
          }
        }
      }
    }
    EXPECT_EQ(found, expected) << ranks << " ranks";
  }
}

// The list is changed where the run goes on: what was consumed before is not looked at again.
TEST_F(BatchLoaderTest, AnotherListOfSkippedSamplesHoldsFromThePositionOn) {
  BatchLoaderOptions options = options_for(4, 4);
  options.skipped = {{2, 3}, {8, 9}};
  BatchLoader before(*dataset_, options, 0);
  EXPECT_EQ(before.next().micro_batches[0].samples, (std::vector<std::int64_t>{0, 1, 4, 5}));
  const StepBatch& left = before.next();
  EXPECT_EQ(left.micro_batches[0].samples, (std::vector<std::int64_t>{6, 7, 10, 11}));
  const DataPosition position{left.consumed_samples + left.samples, left.next_sample};
  EXPECT_EQ(position.consumed_samples, 8);
  EXPECT_EQ(position.next_sample, 12);
  options.skipped = {{0, 11}, {13, 13}};
  EXPECT_EQ(BatchLoader(*dataset_, options, position).next().micro_batches[0].samples,
            (std::vector<std::int64_t>{12, 14, 15, 16}));
  options.skipped = {};
  EXPECT_EQ(BatchLoader(*dataset_, options, position).next().micro_batches[0].samples,
            (std::vector<std::int64_t>{12, 13, 14, 15}));
}

// As many samples as without skipping: the last come from the beginning again, and never from what
// is skipped.
TEST_F(BatchLoaderTest, TheOrderBeginsAgainForWhatWasSkipped) {
  const std::int64_t size = dataset_->size(), steps = size / 10;
  BatchLoaderOptions options = options_for(10, 10);
  options.skipped = {{0, 3}, {6, 24}};
  options.steps_needed = steps;
  BatchLoader loader(*dataset_, options, 0);
  std::int64_t count = 0, at = 0;
  for (std::int64_t t = 0; t < steps; ++t) {
    for (const std::int64_t id : loader.next().micro_batches[0].samples) {
      while (skips(options.skipped, at % size)) ++at;
      EXPECT_EQ(id, at++ % size);
      ++count;
    }
  }
  EXPECT_EQ(count, 10 * steps);
  EXPECT_GT(at, size);
  EXPECT_THROW(loader.next(), Error);
  options.skipped = {{0, size}};
  EXPECT_THAT(error_of([&] { BatchLoader(*dataset_, options, 0); }),
              HasSubstr("samples are left out (data.skip_sample_ranges)"));
}

// Growing batches: their sizes go by the samples consumed, not by the position.
TEST_F(BatchLoaderTest, SkippedSamplesDoNotChangeTheRampup) {
  BatchLoaderOptions options = options_for(12, 2);
  options.batch_sizes = BatchSizes(12, {4, 4, 40});
  std::vector<std::int64_t> sizes;
  for (const bool skip : {false, true}) {
    if (skip) options.skipped = {{1, 30}};
    BatchLoader loader(*dataset_, options, 0);
    for (std::int64_t t = 0; t < 8; ++t) {
      const StepBatch& step = loader.next();
      if (!skip) sizes.push_back(step.samples);
      EXPECT_EQ(step.samples, sizes[static_cast<std::size_t>(t)]);
      EXPECT_EQ(step.next_sample, step.consumed_samples + step.samples + (skip ? 30 : 0));
    }
  }
}

TEST_F(BatchLoaderTest, MasksTheLossAfterEndOfDocument) {
  auto options = options_for(10, 5);
  options.eod = kEod;
  options.eod_mask_loss = true;
  BatchLoader loader(*dataset_, options, 0);
  std::int64_t masked = 0;
  for (int t = 0; t < 20; ++t) {
    const StepBatch& step = loader.next();
    std::int64_t counted = 0;
    for (const auto& batch : step.micro_batches) {
      for (std::size_t i = 0; i < batch.tokens.size(); ++i) {
        EXPECT_EQ(batch.loss_mask[i], batch.tokens[i] == kEod ? 0.0f : 1.0f);
        counted += batch.tokens[i] != kEod;
        masked += batch.tokens[i] == kEod;
      }
    }
    EXPECT_EQ(step.loss_tokens, counted);
  }
  EXPECT_GT(masked, 20);
}

TEST_F(BatchLoaderTest, DocumentsBeginBehindEndOfDocument) {
  auto options = options_for(10, 5);
  options.eod = kEod;
  options.find_documents = true;
  BatchLoader loader(*dataset_, options, 0);
  const std::int64_t seq = dataset_->seq_length();
  std::int64_t begins = 0;
  for (int t = 0; t < 20; ++t) {
    for (const auto& batch : loader.next().micro_batches) {
      ASSERT_EQ(batch.documents.size(), batch.tokens.size());
      for (std::size_t i = 0; i < batch.tokens.size(); ++i) {
        const auto row = static_cast<std::int64_t>(i) % seq;
        const bool first = row == 0 || batch.tokens[i - 1] == kEod;
        EXPECT_EQ(batch.documents[i], first ? row : batch.documents[i - 1]);
        begins += first && row > 0;
      }
    }
  }
  EXPECT_GT(begins, 20);
  EXPECT_TRUE(
      BatchLoader(*dataset_, options_for(10, 5), 0).next().micro_batches[0].documents.empty());
  options.eod = -1;
  EXPECT_THROW(BatchLoader(*dataset_, options, 0), Error);
}

TEST_F(BatchLoaderTest, NegativeLabelsHaveNoLoss) {
  const auto documents = data_testing::counting_documents(40, 30, 3);
  auto labels = documents;
  for (auto& document : labels) {
    for (auto& label : document) label = label % 3 == 0 ? -100 : label + 1000;
  }
  data_testing::write_dataset(dir / "t", documents);
  data_testing::write_dataset(dir / "l", labels, DType::i32);
  BlendSpec blend;
  blend.paths = {dir / "t"};
  blend.label_paths = {dir / "l"};
  TokenDatasetOptions of;
  of.seq_length = kSeq;
  const TokenDataset dataset(DataPart::train, blend, 60, of);
  BatchLoader loader(dataset, options_for(6, 2), 0);
  Row tokens(kSeq + 1);
  for (std::int64_t t = 0; t < 10; ++t) {
    const StepBatch& step = loader.next();
    for (std::int64_t a = 0; a < 3; ++a) {
      const auto& batch = step.micro_batches[static_cast<std::size_t>(a)];
      for (std::int64_t b = 0; b < 2; ++b) {
        dataset.sample(t * 6 + a * 2 + b, tokens);
        for (std::size_t k = 0; k < kSeq; ++k) {  // labels in files are unshifted
          const bool counts = tokens[k + 1] % 3 != 0;
          const std::size_t at = static_cast<std::size_t>(b) * kSeq + k;
          EXPECT_EQ(batch.loss_mask[at], counts ? 1.0f : 0.0f);
          EXPECT_EQ(batch.labels[at], counts ? tokens[k + 1] + 1000 : 0);
        }
      }
    }
  }
}

TEST_F(BatchLoaderTest, BuffersAreRecycled) {
  auto options = options_for(4, 2);
  options.prefetch = 3;
  BatchLoader loader(*dataset_, options, 0);
  std::set<const void*> buffers;
  for (int t = 0; t < 40; ++t) {
    for (const auto& batch : loader.next().micro_batches) {
      buffers.insert({batch.tokens.data(), batch.labels.data(), batch.loss_mask.data()});
    }
  }
  EXPECT_EQ(buffers.size(), (3u + 1u) * 2 * 3);
}

TEST_F(BatchLoaderTest, ABatchStaysUntilTheNextCall) {
  auto options = options_for(2, 2);
  options.prefetch = 1;
  BatchLoader loader(*dataset_, options, 0);
  for (int t = 0; t < 30; ++t) {
    const StepBatch& step = loader.next();
    const auto before = step.micro_batches[0].tokens;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    EXPECT_EQ(step.micro_batches[0].tokens, before);
    EXPECT_EQ(before[0], sample(2 * t)[0]);
  }
}

TEST_F(BatchLoaderTest, TheDatasetEndsWithAnError) {
  const std::int64_t steps = dataset_->size() / 7;
  BatchLoader loader(*dataset_, options_for(7, 7), 0);
  for (std::int64_t t = 0; t < steps; ++t) loader.next();
  for (int again = 0; again < 2; ++again) {
    EXPECT_THAT(error_of([&] { loader.next(); }),
                AllOf(HasSubstr("train dataset has ended"), HasSubstr("a step takes 7")));
  }
  BatchLoader beyond(*dataset_, options_for(7, 7), 1'000'000);
  EXPECT_THAT(error_of([&] { beyond.next(); }), HasSubstr("has ended"));
}

TEST_F(BatchLoaderTest, SaysAtOnceThatSamplesAreMissing) {
  auto options = options_for(10, 5);
  options.steps_needed = dataset_->size() / 10;
  EXPECT_NO_THROW(BatchLoader(*dataset_, options, 0));
  options.steps_needed += 1;
  EXPECT_THAT(error_of([&] { BatchLoader(*dataset_, options, 0); }),
              AllOf(HasSubstr("not enough train samples"),
                    HasSubstr("there are " + std::to_string(dataset_->size()))));
  options.steps_needed = 2;
  EXPECT_THAT(error_of([&] { BatchLoader(*dataset_, options, dataset_->size() - 19); }),
              HasSubstr("2 steps of 10 are still needed"));
  EXPECT_NO_THROW(BatchLoader(*dataset_, options, dataset_->size() - 20));
}

TEST_F(BatchLoaderTest, RefusesImpossibleBatches) {
  const auto error = [&](BatchLoaderOptions options, std::int64_t consumed = 0) {
    return error_of([&] { BatchLoader(*dataset_, options, consumed); });
  };
  EXPECT_THAT(error(options_for(10, 3)), HasSubstr("train_batch_size 10 is not a multiple"));
  EXPECT_THAT(error(options_for(10, 5, 0, 4)), HasSubstr("not a multiple of micro-batch 5 x 4"));
  EXPECT_THAT(error(options_for(0, 1)), HasSubstr("impossible batches"));
  EXPECT_THAT(error(options_for(4, 0)), HasSubstr("impossible batches"));
  EXPECT_THAT(error(options_for(4, 1, 2, 2)), HasSubstr("rank 2 of 2"));
  EXPECT_THAT(error(options_for(4, 1), -1), HasSubstr("-1 samples consumed"));
  EXPECT_THAT(error(options_for(4, std::int64_t{1} << 62, 0, 4)), HasSubstr("not a multiple"));
  auto options = options_for(4, 1);
  options.prefetch = 0;
  EXPECT_THAT(error(options), HasSubstr("prefetch 0"));
  options = options_for(4, 1);
  options.eod_mask_loss = true;
  EXPECT_THAT(error(options), HasSubstr("end-of-document"));
}

// The error comes after the good steps before it, and again when asked again.
TEST_F(BatchLoaderTest, ErrorsOfTheThreadSurfaceInNext) {
  std::int32_t largest = 0;
  std::int64_t first_bad = 0;
  for (std::int64_t i = 0; i < 40; ++i) {
    const Row row = sample(i);
    largest = std::max(largest, *std::max_element(row.begin(), row.end()));
  }
  for (;; ++first_bad) {
    const Row row = sample(first_bad);
    if (std::find(row.begin(), row.end(), largest) != row.end()) break;
  }
  auto options = options_for(1, 1);
  options.vocab_size = largest;
  BatchLoader loader(*dataset_, options, 0);
  for (std::int64_t i = 0; i < first_bad; ++i) {
    const Row row = sample(i);
    EXPECT_EQ(loader.next().micro_batches[0].tokens, Row(row.begin(), row.end() - 1));
  }
  for (int again = 0; again < 2; ++again) {
    EXPECT_THAT(error_of([&] { loader.next(); }),
                AllOf(HasSubstr("sample " + std::to_string(first_bad) + " has token " +
                                std::to_string(largest)),
                      HasSubstr("another tokenizer")));
  }
}

TEST_F(BatchLoaderTest, CanBeDroppedAtAnyMomentAndMoved) {
  for (int round = 0; round < 200; ++round) {
    BatchLoader loader(*dataset_, options_for(4, 2), round % 50);
    if (round % 3 != 0) loader.next();
    if (round % 3 == 2) {
      BatchLoader other(std::move(loader));
      other.next();
      loader = BatchLoader(*dataset_, options_for(2, 2), 0);
      loader.next();
    }
  }
}

TEST_F(BatchLoaderTest, SeveralLoadersShareADataset) {
  std::vector<std::jthread> threads;
  for (std::int64_t rank = 0; rank < 4; ++rank) {
    threads.emplace_back([&, rank] {
      BatchLoader loader(*dataset_, options_for(8, 2, rank, 4), 0);
      for (std::int64_t t = 0; t < 20; ++t) {
        EXPECT_EQ(loader.next().micro_batches[0].tokens[0], sample(8 * t + 2 * rank)[0]);
      }
    });
  }
}

}  // namespace
}  // namespace neox
