#include <filesystem>
#include <numeric>
#include <random>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "io/data/batch_loader.h"
#include "io/data/document_map.h"
#include "io/data/token_dataset.h"
#include "tests/io/data_support.h"

namespace neox {
namespace {

using data_testing::Documents;
using data_testing::error_of;
using data_testing::TempDir;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// RandomState.shuffle, the plain way.
template <class T>
void numpy_shuffle(std::mt19937& engine, std::vector<T>& values) {
  for (std::size_t i = values.size() - 1; i > 0; --i) {
    std::uint32_t mask = 1;
    while (mask < i) mask = 2 * mask + 1;
    std::uint32_t j = 0;
    do j = static_cast<std::uint32_t>(engine()) & mask;
    while (j > i);
    std::swap(values[i], values[j]);
  }
}

struct Setting {
  Packing packing = Packing::unpacked;
  int first = 0, last = 0;  // documents
  std::int64_t seq_length = 0, samples = 0;
  std::uint32_t seed = 0;
  bool chopped = true;
};

// The documents of each sample by the definition alone: in GPT-NeoX's order of drawing.
std::vector<std::vector<std::int32_t>> expected(const Documents& labels, const Setting& s) {
  std::mt19937 engine(s.seed);
  std::vector<std::size_t> shuffle(static_cast<std::size_t>(s.samples));
  std::iota(shuffle.begin(), shuffle.end(), std::size_t{0});
  numpy_shuffle(engine, shuffle);
  const auto room = static_cast<std::size_t>(s.seq_length) + 1;
  const auto usable = [&](int d) {
    const auto& row = labels[static_cast<std::size_t>(d)];
    if (row.size() > room && !s.chopped) return false;
    const std::size_t begin = s.packing == Packing::unpacked ? 1 : 0;
    for (std::size_t t = begin; t < std::min(row.size(), room); ++t) {
      if (row[t] >= 0) return true;
    }
    return false;
  };
  std::vector<int> order(static_cast<std::size_t>(s.last - s.first));
  std::iota(order.begin(), order.end(), s.first);
  std::vector<std::vector<std::int32_t>> unshuffled;
  std::size_t used = 0;
  while (unshuffled.size() <= shuffle.size()) {
    if (s.packing == Packing::pack_until_overflow) numpy_shuffle(engine, order);
    for (const int d : order) {
      if (!usable(d)) continue;
      const std::size_t size = labels[static_cast<std::size_t>(d)].size();
      const bool fits = s.packing == Packing::pack_until_overflow && used + size <= room;
      if (unshuffled.empty() || !fits) {
        unshuffled.emplace_back();
        used = 0;
      }
      unshuffled.back().push_back(d);
      used += size;
    }
  }
  std::vector<std::vector<std::int32_t>> result;
  for (const std::size_t k : shuffle) result.push_back(unshuffled[k]);
  return result;
}

// Documents of 0 … 30 tokens, with masks of all kinds.
struct Corpus {
  Documents tokens, labels;
};
Corpus corpus(int documents, std::uint32_t seed) {
  std::mt19937 random(seed);
  Corpus made;
  std::int32_t next = 1;
  for (int d = 0; d < documents; ++d) {
    auto& row = made.tokens.emplace_back(random() % 31);
    std::iota(row.begin(), row.end(), next);
    next += static_cast<std::int32_t>(row.size());
    auto& labels = made.labels.emplace_back(row);
    const std::uint32_t kind = random() % 4;
    for (std::size_t t = 0; t < labels.size(); ++t) {
      // all, none, a half, only the first
      if (kind == 1 || (kind == 2 && 2 * t < labels.size()) || (kind == 3 && t > 0)) {
        labels[t] = random() % 2 == 0 ? kNoLabel : -1;
      }
    }
  }
  return made;
}

std::shared_ptr<const IndexedDataset> open(const std::string& prefix) {
  return std::make_shared<const IndexedDataset>(prefix);
}

DocumentMapSpec spec_of(const Setting& s) {
  return {s.packing, s.first, s.last, s.seq_length, s.samples, std::int64_t{s.seed}, s.chopped};
}

TEST(DocumentMap, IsWhatItsDefinitionSays) {
  TempDir dir;
  int compared = 0;
  for (std::uint32_t seed = 0; seed < 6; ++seed) {
    const Corpus made = corpus(40, seed);
    const std::string name = dir / std::to_string(seed);
    data_testing::write_dataset(name, made.tokens, DType::i32);
    data_testing::write_dataset(name + "_label", made.labels, DType::i32);
    const auto data = open(name), labels = open(name + "_label");
    for (const Packing packing : {Packing::pack_until_overflow, Packing::unpacked}) {
      for (const bool chopped : {true, false}) {
        for (const std::int64_t seq_length : {1, 9, 17, 64}) {
          for (const std::int64_t samples : {1, 2, 33, 200}) {
            for (const auto& [first, last] : {std::pair{0, 40}, {13, 29}}) {
              const Setting s = {packing, first, last, seq_length, samples, seed + 1234, chopped};
              for (const bool masked : {true, false}) {
                SCOPED_TRACE(fmt::format("{} {} {} {} {} {}", name_of(packing), chopped, seq_length,
                                         samples, first, masked));
                const IndexedDataset* used = masked ? labels.get() : nullptr;
                DocumentMap map;
                const std::string error =
                    error_of([&] { map = DocumentMap::make(*data, used, spec_of(s)); });
                if (!error.empty()) {
                  EXPECT_EQ(seq_length, 1) << error;  // too small for anything
                  continue;
                }
                const auto want = expected(masked ? made.labels : made.tokens, s);
                ASSERT_EQ(map.size(), samples);
                for (std::int64_t i = 0; i < samples; ++i) {
                  const auto got = map.documents(i);
                  ASSERT_EQ(std::vector(got.begin(), got.end()), want[static_cast<std::size_t>(i)]);
                }
                EXPECT_EQ(map.kept() + map.too_long() + map.without_labels(), last - first);
                ++compared;
              }
            }
          }
        }
      }
    }
  }
  EXPECT_GT(compared, 600);
}

TEST(DocumentMap, IsKeptAndMadeAnewForNewLabels) {
  TempDir dir;
  const Corpus made = corpus(30, 3);
  data_testing::write_dataset(dir / "a", made.tokens, DType::i32);
  data_testing::write_dataset(dir / "label", made.labels, DType::i32);
  const Setting s = {Packing::pack_until_overflow, 0, 30, 16, 50, 7};
  const auto make = [&] {
    return DocumentMap::make(*open(dir / "a"), open(dir / "label").get(), spec_of(s), dir.str());
  };
  const auto files = [&] {
    return std::distance(std::filesystem::directory_iterator(dir.str()), {});
  };
  const auto all = [](const DocumentMap& map) {
    std::vector<std::vector<std::int32_t>> result;
    for (std::int64_t i = 0; i < map.size(); ++i) {
      result.emplace_back(map.documents(i).begin(), map.documents(i).end());
    }
    return result;
  };
  const DocumentMap first = make();
  const auto made_files = files();
  EXPECT_EQ(made_files, 6);  // two pairs, the uses and the map
  const DocumentMap second = make();
  EXPECT_EQ(files(), made_files);
  EXPECT_EQ(all(first), all(second));
  EXPECT_EQ(first.key(), second.key());
  // The same lengths, but other masks.
  Documents unmasked = made.tokens;
  data_testing::write_dataset(dir / "label", unmasked, DType::i32);
  const DocumentMap third = make();
  EXPECT_EQ(third.kept(), 30 - std::count_if(unmasked.begin(), unmasked.end(),
                                             [](const auto& row) { return row.empty(); }));
  EXPECT_EQ(all(third), expected(unmasked, s));
}

TEST(DocumentMap, SaysWhyNothingIsLeft) {
  TempDir dir;
  data_testing::write_dataset(dir / "a", {{1, 2, 3, 4, 5, 6}, {1, 2}, {7}, {}}, DType::i32);
  data_testing::write_dataset(dir / "label", {{1, 2, 3, 4, 5, 6}, {1, -100}, {7}, {}}, DType::i32);
  const auto error = [&](Setting s) {
    s.last = 4;
    s.samples = 3;
    return error_of(
        [&] { DocumentMap::make(*open(dir / "a"), open(dir / "label").get(), spec_of(s)); });
  };
  EXPECT_THAT(error({.seq_length = 4, .chopped = false}),
              AllOf(HasSubstr("none of the documents 0 to 3 can be used: 1 are longer than "
                              "seq_length + 1 = 5"),
                    HasSubstr("allow_chopped"), HasSubstr("3 have no label that counts")));
  EXPECT_EQ(error({.seq_length = 4}), "");
  EXPECT_EQ(error({.packing = Packing::pack_until_overflow, .seq_length = 4, .chopped = false}),
            "");
  EXPECT_THAT(error({.packing = Packing::packed, .seq_length = 4}), HasSubstr("IndexMap"));
  EXPECT_THAT(error_of([] { packing_from_name("tight"); }), HasSubstr("unknown pack_impl 'tight'"));
}

// Tokens and labels of samples: whole documents, then padding without labels.
TEST(DocumentMap, SamplesAreDocumentsAndPadding) {
  TempDir dir;
  for (std::uint32_t seed = 0; seed < 4; ++seed) {
    const Corpus made = corpus(50, seed + 10);
    data_testing::write_dataset(dir / "a", made.tokens, DType::i32);
    data_testing::write_dataset(dir / "label", made.labels, DType::i32);
    for (const Packing packing : {Packing::pack_until_overflow, Packing::unpacked}) {
      for (const bool masked : {true, false}) {
        TokenDatasetOptions options;
        options.seq_length = 20;
        options.packing = packing;
        options.use_cache = false;
        BlendSpec blend;
        blend.paths = {dir / "a"};
        if (masked) blend.label_paths = {dir / "label"};
        const TokenDataset dataset(DataPart::train, blend, 120, options);
        ASSERT_TRUE(dataset.has_labels());
        ASSERT_EQ(dataset.size(), 120);
        const auto& source = masked ? made.labels : made.tokens;
        // A blend asks for some more samples than it takes.
        const Setting s = {packing, 0, 50, 20, weighted_num_samples(120, 1.0), 1234};
        const auto want = expected(source, s);
        for (std::int64_t i = 0; i < 120; ++i) {
          std::vector<std::int32_t> tokens, labels;
          for (const std::int32_t d : want[static_cast<std::size_t>(i)]) {
            const auto at = static_cast<std::size_t>(d);
            tokens.insert(tokens.end(), made.tokens[at].begin(), made.tokens[at].end());
            labels.insert(labels.end(), source[at].begin(), source[at].end());
          }
          tokens.resize(21, kPaddingToken);
          labels.resize(21, kNoLabel);
          std::vector<std::int32_t> row(21);
          const SampleOrigin origin = dataset.sample(i, row);
          EXPECT_EQ(row, tokens);
          dataset.sample_labels(i, row);
          EXPECT_EQ(row, labels);
          EXPECT_EQ(origin, (SampleOrigin{0, want[static_cast<std::size_t>(i)][0], 0}));
        }
      }
    }
  }
}

TEST(DocumentMap, LoadersMaskPaddingAndLeaveSamplesOut) {
  TempDir dir;
  const Corpus made = corpus(50, 21);
  data_testing::write_dataset(dir / "a", made.tokens, DType::i32);
  TokenDatasetOptions options;
  options.seq_length = 20;
  options.packing = Packing::unpacked;
  options.use_cache = false;
  const TokenDataset dataset(open(dir / "a"), DataPart::train, "1", 64, options);
  for (const std::int64_t ranks : {1, 2}) {
    for (std::int64_t rank = 0; rank < ranks; ++rank) {
      BatchLoaderOptions load;
      load.batch_sizes = 8;
      load.micro_batch = 2;
      load.dp_size = ranks;
      load.dp_rank = rank;
      load.skipped = {{3, 4}};
      BatchLoader loader(dataset, load, 0);
      for (std::int64_t step = 0; step < 6; ++step) {
        const StepBatch& batch = loader.next();
        std::int64_t counted = 0;
        for (const MicroBatch& micro : batch.micro_batches) {
          for (std::size_t b = 0; b < 2; ++b) {
            const std::int64_t nth = 8 * step + micro.first_sample + static_cast<std::int64_t>(b);
            ASSERT_EQ(micro.samples[b], nth < 3 ? nth : nth + 2);
            const auto& document = made.tokens[static_cast<std::size_t>(micro.origins[b].document)];
            for (std::size_t t = 0; t < 20; ++t) {
              const bool counts = t + 1 < document.size();
              EXPECT_EQ(micro.loss_mask[20 * b + t], counts ? 1.0f : 0.0f);
              EXPECT_EQ(micro.labels[20 * b + t], counts ? document[t + 1] : 0);
              EXPECT_EQ(micro.tokens[20 * b + t],
                        t < document.size() ? document[t] : kPaddingToken);
              counted += counts ? 1 : 0;
            }
          }
        }
        EXPECT_EQ(batch.loss_tokens, counted);
      }
    }
  }
}

// A split gives each part its own documents (GPT-NeoX numbers them from 0).
TEST(DocumentMap, PartsOfASplitAreDisjoint) {
  TempDir dir;
  data_testing::write_dataset(dir / "a", data_testing::counting_documents(100, 30, 2), DType::i32);
  TokenDatasetOptions options;
  options.seq_length = 16;
  options.packing = Packing::unpacked;
  const auto parts = open_split(dir / "a", "6,4", {300, 300, 0}, options);
  const std::int64_t border = open(dir / "a")->num_tokens(0, 60);
  std::vector<std::int32_t> row(17);
  for (std::int64_t i = 0; i < 300; ++i) {
    EXPECT_LT(parts[0]->sample(i, row).document, 60);
    EXPECT_LT(*std::max_element(row.begin(), row.end()), border);
    EXPECT_GE(parts[1]->sample(i, row).document, 60);
    EXPECT_GE(row[0], border);
  }
  const std::string table = format_table(parts[0]->rows());
  EXPECT_THAT(table, HasSubstr("without a label that counts"));
}

TEST(TokenDataset, KnowsWhenTheOrderIsAnother) {
  TempDir dir;
  const Corpus made = corpus(30, 3);
  for (const char* name : {"a", "b", "moved"}) {
    data_testing::write_dataset(dir / name, made.tokens, DType::i32);
  }
  data_testing::write_dataset(dir / "other", corpus(30, 4).tokens, DType::i32);
  struct Ids {
    std::uint64_t content, order;
  };
  const auto ids = [&](const char* path, std::int64_t samples, auto&& change) {
    TokenDatasetOptions options;
    options.seq_length = 16;
    BlendSpec blend;
    blend.paths = {dir / path, dir / "b"};
    change(options, blend);
    const TokenDataset dataset(DataPart::train, blend, samples, options);
    return Ids{dataset.content_id(), dataset.order_id()};
  };
  const auto same = [](auto&, auto&) {};
  const Ids base = ids("a", 20, same);
  EXPECT_EQ(ids("moved", 20, same).content, base.content);
  EXPECT_EQ(ids("moved", 20, same).order, base.order);
  EXPECT_EQ(ids("a", 22, same).order, base.order);  // as many epochs
  EXPECT_EQ(ids("a", 2000, same).content, base.content);
  EXPECT_NE(ids("a", 2000, same).order, base.order);
  EXPECT_NE(ids("other", 20, same).content, base.content);
  EXPECT_NE(ids("a", 20, [](auto& o, auto&) { o.seed = 5; }).content, base.content);
  EXPECT_NE(ids("a", 20, [](auto& o, auto&) { o.seq_length = 17; }).content, base.content);
  EXPECT_NE(ids("a", 20, [](auto& o, auto&) { o.packing = Packing::unpacked; }).content,
            base.content);
  EXPECT_NE(ids("a", 20, [](auto&, auto& b) { b.weights = {1, 2}; }).content, base.content);
  EXPECT_EQ(ids("a", 20, [](auto&, auto& b) { b.weights = {3, 3}; }).content, base.content);
}

}  // namespace
}  // namespace neox
