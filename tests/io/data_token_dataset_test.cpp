#include <filesystem>
#include <map>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "core/base/error.h"
#include "io/data/token_dataset.h"
#include "tests/io/data_support.h"

namespace neox {
namespace {

using data_testing::error_of;
using data_testing::TempDir;
using ::testing::AllOf;
using ::testing::HasSubstr;

TokenDatasetOptions options_for(std::int64_t seq_length) {
  TokenDatasetOptions options;
  options.seq_length = seq_length;
  return options;
}

std::vector<std::int32_t> sample(const TokenDataset& data, std::int64_t i) {
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(data.seq_length() + 1));
  data.sample(i, tokens);
  return tokens;
}

std::shared_ptr<const IndexedDataset> open(const std::string& prefix) {
  return std::make_shared<const IndexedDataset>(prefix);
}

// What a sample holds follows from doc_idx and the cut alone: lay the documents end to end.
TEST(TokenDataset, SamplesAreCutsOfTheShuffledDocuments) {
  TempDir dir;
  data_testing::write_dataset(dir / "a", data_testing::counting_documents(60, 40, 1), DType::i32);
  const auto data = open(dir / "a");
  const TokenDataset dataset(data, DataPart::train, "8,1,1", 500, options_for(16));
  IndexMapSpec spec;
  spec.last_document = 48;
  spec.seq_length = 16;
  spec.num_samples = 500;
  const IndexMap map = IndexMap::make(*data, spec);
  std::vector<std::int32_t> stream;
  for (const std::int32_t d : map.doc_idx()) {
    std::vector<std::int32_t> document(static_cast<std::size_t>(data->length(d)));
    data->tokens(d, 0, document);
    stream.insert(stream.end(), document.begin(), document.end());
  }
  ASSERT_EQ(dataset.size(), map.size());
  ASSERT_GE(dataset.size(), 500);
  for (std::int64_t i = 0; i < dataset.size(); ++i) {
    const auto begin = stream.begin() + 16 * map.shuffled(i);
    EXPECT_EQ(sample(dataset, i), std::vector<std::int32_t>(begin, begin + 17));
  }
}

TEST(TokenDataset, NothingWrapsAround) {
  TempDir dir;
  data_testing::write_dataset(dir / "a", data_testing::counting_documents(20, 40, 1));
  const TokenDataset dataset(open(dir / "a"), DataPart::train, "1", 10, options_for(8));
  std::vector<std::int32_t> out(9), small(8);
  EXPECT_THAT(error_of([&] { dataset.sample(dataset.size(), out); }),
              HasSubstr("is asked for, but"));
  EXPECT_THAT(error_of([&] { dataset.sample(-1, out); }), HasSubstr("train sample -1"));
  EXPECT_THAT(error_of([&] { dataset.sample(0, small); }), HasSubstr("has 9 tokens, not 8"));
  EXPECT_THAT(error_of([&] { dataset.sample_labels(0, out); }), HasSubstr("are its tokens"));
}

TEST(TokenDataset, PartsAreDisjointAndOpenTogether) {
  TempDir dir;
  data_testing::write_dataset(dir / "a", data_testing::counting_documents(100, 30, 2), DType::i32);
  const auto parts = open_split(dir / "a", "6,3,1", {50, 20, 0}, options_for(8));
  ASSERT_TRUE(parts[0] && parts[1]);
  EXPECT_FALSE(parts[2]);
  const auto data = open(dir / "a");
  const std::int32_t border = static_cast<std::int32_t>(data->num_tokens(0, 60));
  const std::int32_t end = static_cast<std::int32_t>(data->num_tokens(0, 90));
  for (std::int64_t i = 0; i < parts[0]->size(); ++i) {
    for (const auto token : sample(*parts[0], i)) EXPECT_LT(token, border);
  }
  for (std::int64_t i = 0; i < parts[1]->size(); ++i) {
    for (const auto token : sample(*parts[1], i)) EXPECT_TRUE(token >= border && token < end);
  }
  EXPECT_EQ(parts[1]->part(), DataPart::valid);
}

TEST(TokenDataset, SaysWhatIsMissing) {
  TempDir dir;
  data_testing::write_dataset(dir / "a", data_testing::counting_documents(10, 30, 2));
  data_testing::write_dataset(dir / "empty", {});
  data_testing::write_dataset(dir / "hollow", {{}, {}});
  const auto error = [&](const std::string& path, const std::string& split, std::int64_t seq) {
    return error_of([&] { open_split(path, split, {5, 5, 5}, options_for(seq)); });
  };
  EXPECT_THAT(error(dir / "a", "969,30,1", 4),
              AllOf(HasSubstr("split '969,30,1' of the 10 documents"),
                    HasSubstr("leaves none to the valid part")));
  EXPECT_THAT(
      error(dir / "a", "1,1,1", 10000),
      AllOf(HasSubstr("too few for one sample of 10000 + 1"), HasSubstr("smaller seq_length")));
  EXPECT_THAT(error(dir / "a", "1,1,1", 0), HasSubstr("seq_length is 0"));
  EXPECT_THAT(error(dir / "empty", "1,1,1", 4), HasSubstr("of the 0 documents"));
  EXPECT_THAT(error(dir / "hollow", "1,1,0", 4), HasSubstr("has 0 tokens in 1 documents"));
  EXPECT_THAT(error(dir / "none", "1,1,1", 4), HasSubstr("none.bin"));
  EXPECT_THAT(error(dir / "a", "x", 4), HasSubstr("split 'x'"));
  auto options = options_for(4);
  options.vocab_size = 20;
  EXPECT_THAT(error_of([&] {
                open_split(dir / "a", "1,1,1", {5, 5, 5}, options);
              }),
              HasSubstr("token 20, but the vocabulary has 20"));
  options.vocab_size = 100000;
  options.seed = -1;
  EXPECT_THAT(error_of([&] {
                open_split(dir / "a", "1,1,1", {5, 5, 5}, options);
              }),
              HasSubstr("seed is -1"));
}

TEST(TokenDataset, BlendsTakeEachDatasetInItsOwnOrder) {
  TempDir dir;
  data_testing::write_dataset(dir / "a", data_testing::counting_documents(40, 30, 3), DType::i32);
  auto documents = data_testing::counting_documents(25, 50, 4);
  for (auto& document : documents) {
    for (auto& token : document) token += 100000;
  }
  data_testing::write_dataset(dir / "b", documents, DType::i32);
  BlendSpec blend;
  blend.paths = {dir / "a", dir / "b"};
  blend.weights = {3, 7};
  auto options = options_for(12);
  options.use_cache = false;
  const std::int64_t n = 300;
  const TokenDataset dataset(DataPart::train, blend, n, options);
  EXPECT_EQ(dataset.size(), n);
  // Each source alone, asked for its share with the margin.
  const TokenDataset a(open(dir / "a"), DataPart::train, "1", weighted_num_samples(n, 0.3),
                       options);
  const TokenDataset b(open(dir / "b"), DataPart::train, "1", weighted_num_samples(n, 0.7),
                       options);
  std::int64_t from_a = 0, from_b = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    const auto got = sample(dataset, i);
    if (got[0] < 100000) {
      EXPECT_EQ(got, sample(a, from_a++));
    } else {
      EXPECT_EQ(got, sample(b, from_b++));
    }
  }
  EXPECT_EQ(from_a, 90);
  EXPECT_EQ(from_b, 210);
  ASSERT_EQ(dataset.rows().size(), 2u);
  EXPECT_EQ(dataset.rows()[1].samples, 210);
  EXPECT_DOUBLE_EQ(dataset.rows()[1].proportion, 0.7);
  EXPECT_DOUBLE_EQ(dataset.rows()[0].epochs,
                   90.0 * 12 / static_cast<double>(open(dir / "a")->num_tokens()));
  const std::string table = format_table(dataset.rows());
  EXPECT_THAT(table, AllOf(HasSubstr(dir / "a"), HasSubstr("70.00%"), HasSubstr("210")));
}

TEST(TokenDataset, BlendListsAreValidated) {
  TempDir dir;
  data_testing::write_dataset(dir / "a", data_testing::counting_documents(40, 30, 3));
  data_testing::write_dataset(dir / "empty", {});
  const auto error = [&](BlendSpec blend, std::int64_t n = 10) {
    return error_of([&] { TokenDataset(DataPart::train, blend, n, options_for(4)); });
  };
  BlendSpec blend;
  EXPECT_THAT(error(blend), HasSubstr("train_data_paths is empty"));
  blend.paths = {dir / "a", dir / "a"};
  blend.weights = {1};
  EXPECT_THAT(error(blend),
              HasSubstr("train_data_weights has 1 entries, but train_data_paths has 2"));
  blend.weights = {1, -1};
  EXPECT_THAT(error(blend), HasSubstr("data weight 2 is -1"));
  blend.weights = {};
  EXPECT_EQ(error(blend), "");
  EXPECT_THAT(error(blend, 0), HasSubstr("at least one"));
  blend.label_paths = {dir / "a"};
  EXPECT_THAT(error(blend), HasSubstr("train_label_data_paths has 1"));
  blend.label_paths = {};
  blend.paths[1] = dir / "empty";
  EXPECT_THAT(error(blend), HasSubstr("has no documents"));
  blend.paths[1] = dir / "missing";
  EXPECT_THAT(error(blend), HasSubstr("missing.bin"));
}

TEST(TokenDataset, WeightsByNumDocumentsReplaceTheGiven) {
  TempDir dir;
  data_testing::write_dataset(dir / "a", data_testing::counting_documents(10, 50, 3));
  data_testing::write_dataset(dir / "b", data_testing::counting_documents(90, 50, 3));
  BlendSpec blend;
  blend.paths = {dir / "a", dir / "b"};
  blend.weights = {1, 99};
  blend.weight_by_num_documents = true;
  const TokenDataset dataset(DataPart::valid, blend, 100, options_for(4));
  EXPECT_EQ(dataset.rows()[0].samples, 50);
  EXPECT_EQ(dataset.rows()[1].samples, 50);
}

TEST(TokenDataset, LabelsAreCutAtTheSamePlaces) {
  TempDir dir;
  const auto documents = data_testing::counting_documents(40, 30, 3);
  auto labels = documents;
  for (auto& document : labels) {
    for (auto& label : document) label = label % 3 == 0 ? -100 : label;
  }
  data_testing::write_dataset(dir / "a", documents);
  data_testing::write_dataset(dir / "l", labels, DType::i32);
  BlendSpec blend;
  blend.paths = {dir / "a"};
  blend.label_paths = {dir / "l"};
  const TokenDataset dataset(DataPart::train, blend, 50, options_for(10));
  ASSERT_TRUE(dataset.has_labels());
  std::vector<std::int32_t> got(11);
  for (std::int64_t i = 0; i < dataset.size(); ++i) {
    const auto tokens = sample(dataset, i);
    dataset.sample_labels(i, got);
    for (std::size_t t = 0; t < got.size(); ++t) {
      EXPECT_EQ(got[t], tokens[t] % 3 == 0 ? -100 : tokens[t]);
    }
  }
  labels[7].push_back(1);
  data_testing::write_dataset(dir / "l", labels, DType::i32);
  EXPECT_THAT(error_of([&] { TokenDataset(DataPart::train, blend, 50, options_for(10)); }),
              HasSubstr("sequence 7 has"));
  labels.pop_back();
  data_testing::write_dataset(dir / "l", labels, DType::i32);
  EXPECT_THAT(error_of([&] { TokenDataset(DataPart::train, blend, 50, options_for(10)); }),
              HasSubstr("has 39 sequences, but"));
}

TEST(TokenDataset, KeepsItsIndexBesideTheDataOrWhereAsked) {
  TempDir dir;
  std::filesystem::create_directory(dir / "data");
  data_testing::write_dataset(dir / "data/a", data_testing::counting_documents(20, 30, 3));
  const auto count = [](const std::string& directory) {
    return std::distance(std::filesystem::directory_iterator(directory),
                         std::filesystem::directory_iterator());
  };
  auto options = options_for(4);
  options.use_cache = false;
  open_split(dir / "data/a", "1,1,1", {5, 5, 5}, options);
  EXPECT_EQ(count(dir / "data"), 2);
  options.use_cache = true;
  options.cache_dir = dir / "cache";
  open_split(dir / "data/a", "1,1,1", {5, 5, 5}, options);
  EXPECT_EQ(count(dir / "data"), 2);
  EXPECT_EQ(count(dir / "cache"), 3);
  options.cache_dir.clear();
  options.vocab_size = 60000;
  options.warm_up = true;
  open_split(dir / "data/a", "1,1,1", {5, 5, 5}, options);
  EXPECT_EQ(count(dir / "data"), 2 + 3 + 1);  // and the range of the tokens
}

// GPT-NeoX's own samples.
TEST(TokenDataset, ReproducesTheSharedSamples) {
  NEOX_NEED_SHARED_DATA(folder, "dataset/shakespeare");
  const auto manifest =
      nlohmann::json::parse(data_testing::read_file(folder + "/shakespeare_manifest.json"));
  const auto data = open(folder + "/shakespeare_text_document");
  const std::map<std::string, DataPart> parts = {
      {"train", DataPart::train}, {"valid", DataPart::valid}, {"test", DataPart::test}};
  int checked = 0;
  for (const auto& one : manifest["cases"]) {
    auto options = options_for(one["seq_length"]);
    options.seed = one["seed"];
    options.use_cache = false;
    options.vocab_size = 50257;
    const TokenDataset dataset(data, parts.at(one["part"]), one["split"], one["num_samples"],
                               options);
    std::int64_t i = 0;
    for (const auto& want : one["first_samples"]) {
      EXPECT_EQ(sample(dataset, i++), want.get<std::vector<std::int32_t>>());
      ++checked;
    }
    // The hash is over the samples asked for, as 64-bit integers.
    std::string bytes;
    for (i = 0; i < one["num_samples"].get<std::int64_t>(); ++i) {
      for (const std::int64_t token : sample(dataset, i)) {
        bytes.append(reinterpret_cast<const char*>(&token), sizeof token);
      }
    }
    EXPECT_EQ(data_testing::sha256(bytes), one["all_samples_i64le_sha256"].get<std::string>());
  }
  EXPECT_GT(checked, 5);
}

}  // namespace
}  // namespace neox
