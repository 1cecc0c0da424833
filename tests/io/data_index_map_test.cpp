#include <filesystem>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "core/base/error.h"
#include "io/data/index_map.h"
#include "io/data/numpy_rng.h"
#include "tests/io/data_support.h"

namespace neox {
namespace {

using data_testing::error_of;
using data_testing::TempDir;
using ::testing::HasSubstr;
using Boundaries = std::array<std::int64_t, 4>;

TEST(Split, RoundsAsGptNeox) {
  EXPECT_EQ(split_boundaries("969,30,1", 7222), (Boundaries{0, 6998, 7215, 7222}));
  EXPECT_EQ(split_boundaries(" 8 , 1 , 1 ", 10), (Boundaries{0, 8, 9, 10}));
  EXPECT_EQ(split_boundaries("8/1/1", 10), (Boundaries{0, 8, 9, 10}));
  EXPECT_EQ(split_boundaries("1,1,1", 7), (Boundaries{0, 3, 5, 7}));
  EXPECT_EQ(split_boundaries("1", 7), (Boundaries{0, 7, 7, 7}));
  EXPECT_EQ(split_boundaries("0.9,0.1", 10), (Boundaries{0, 9, 10, 10}));
  EXPECT_EQ(split_boundaries("1e2,0,0", 3), (Boundaries{0, 3, 3, 3}));
  EXPECT_EQ(split_boundaries("1,1,1", 0), (Boundaries{0, 0, 0, 0}));
  // 1.5 and 1.5 round up, to 2: the surplus would begin validation at -1.
  EXPECT_EQ(split_boundaries("0,1,1", 3), (Boundaries{0, 0, 1, 3}));
}

TEST(Split, BoundariesAlwaysRise) {
  for (const char* text :
       {"969,30,1", "0,1,1", "1,0,1", "1,1,0", "0.5,0.5,0.5", "0,0,7", "3,5,9"}) {
    for (std::int64_t n = 0; n < 200; ++n) {
      const auto b = split_boundaries(text, n);
      EXPECT_EQ(b[0], 0);
      EXPECT_TRUE(b[0] <= b[1] && b[1] <= b[2] && b[2] <= b[3]) << text << " " << n;
      EXPECT_EQ(b[3], n);
    }
  }
}

TEST(Split, RefusesOtherText) {
  for (const char* text : {"", ",", "a", "1,,1", "1,2,3,4", "-1,2", "0,0,0", "nan", "inf,1", "1;2",
                           "0x10", "1,2,", "1 2", "1e400", "969,30/1"}) {
    EXPECT_THAT(error_of([&] { split_boundaries(text, 10); }), HasSubstr("split '")) << text;
  }
}

TEST(Split, ReproducesTheSharedCases) {
  NEOX_NEED_SHARED_DATA(folder, "dataset");
  const auto cases = nlohmann::json::parse(data_testing::read_file(folder + "/split_cases.json"));
  ASSERT_GE(cases.size(), 3u);
  for (const auto& [name, want] : cases.items()) {
    const auto bar = name.find('|');
    EXPECT_EQ(split_boundaries(name.substr(0, bar), std::stoll(name.substr(bar + 1))),
              want.get<Boundaries>());
  }
}

// GPT-NeoX's walk over the documents, token by token as its helper does it.
std::vector<std::int64_t> walk(const IndexedDataset& data, std::span<const std::int32_t> doc_idx,
                               std::int64_t seq_length, std::int64_t samples) {
  std::vector<std::int64_t> rows = {0, 0};
  std::int64_t position = 0, offset = 0;
  for (std::int64_t k = 0; k < samples; ++k) {
    std::int64_t need = seq_length + 1;
    while (need != 0) {
      const std::int64_t have = data.length(doc_idx[static_cast<std::size_t>(position)]) - offset;
      need -= have;
      if (need <= 0) {
        offset += need + have - 1;
        need = 0;
      } else {
        ++position;
        offset = 0;
      }
    }
    rows.push_back(position);
    rows.push_back(offset);
  }
  return rows;
}

TEST(IndexMap, EqualsTheWalkOfGptNeox) {
  TempDir dir;
  for (std::uint32_t seed = 0; seed < 30; ++seed) {
    const std::string prefix = dir / std::to_string(seed);
    data_testing::write_dataset(prefix,
                                data_testing::counting_documents(40, seed % 3 == 0 ? 3 : 60, seed));
    const IndexedDataset data(prefix);
    for (const std::int64_t seq_length : {1, 2, 7, 16, 100}) {
      IndexMapSpec spec;
      spec.first_document = seed % 5;
      spec.last_document = 40 - seed % 7;
      spec.seq_length = seq_length;
      spec.num_samples = 1 + 11 * seed;
      spec.seed = 1234 + seed;
      const std::int64_t tokens = data.num_tokens(spec.first_document, spec.last_document);
      const IndexMap map = IndexMap::make(data, spec);
      // The number of epochs is the smallest that suffices.
      ASSERT_GE(map.size(), spec.num_samples);
      EXPECT_EQ(map.size(), (map.epochs() * tokens - 1) / seq_length);
      EXPECT_LT(((map.epochs() - 1) * tokens - 1) / seq_length, spec.num_samples);
      // doc_idx and shuffle_idx from the plain description.
      NumpyRandomState rng(static_cast<std::uint32_t>(spec.seed));
      std::vector<std::int32_t> documents;
      for (std::int64_t e = 0; e < map.epochs(); ++e) {
        for (std::int64_t d = spec.first_document; d < spec.last_document; ++d) {
          documents.push_back(static_cast<std::int32_t>(d));
        }
      }
      rng.shuffle(std::span(documents));
      ASSERT_TRUE(std::equal(documents.begin(), documents.end(), map.doc_idx().begin(),
                             map.doc_idx().end()));
      std::vector<std::int64_t> order(static_cast<std::size_t>(map.size()));
      std::iota(order.begin(), order.end(), 0);
      rng.shuffle(std::span(order));
      const auto rows = walk(data, documents, seq_length, map.size());
      for (std::int64_t k = 0; k < map.size(); ++k) {
        EXPECT_EQ(map.shuffled(k), order[static_cast<std::size_t>(k)]);
      }
      for (std::int64_t k = 0; k <= map.size(); ++k) {
        EXPECT_EQ(map.start(k).position, rows[static_cast<std::size_t>(2 * k)]);
        EXPECT_EQ(map.start(k).offset, rows[static_cast<std::size_t>(2 * k + 1)]);
      }
    }
  }
}

TEST(IndexMap, ByHand) {
  TempDir dir;
  data_testing::write_dataset(dir / "a", {{0, 1, 2}, {3}, {4, 5, 6, 7}});
  const IndexedDataset data(dir / "a");
  IndexMapSpec spec;
  spec.last_document = 3;
  spec.seq_length = 2;
  spec.num_samples = 4;  // 8 tokens an epoch give (8 - 1) / 2 = 3, two epochs give 7
  spec.seed = 0;
  const IndexMap map = IndexMap::make(data, spec);
  EXPECT_EQ(map.epochs(), 2);
  EXPECT_EQ(map.size(), 7);
  EXPECT_EQ(map.sample_idx_bytes().size(), 8u * 2 * 4);
  EXPECT_EQ(map.shuffle_idx_bytes().size(), 7u * 4);
  spec.num_samples = 0;
  spec.num_epochs = 1;
  EXPECT_EQ(IndexMap::make(data, spec).size(), 3);
}

TEST(IndexMap, SizesSwitchTo64BitsWhereGptNeoxDoes) {
  IndexMapSpec spec;
  spec.last_document = 1000;
  spec.seq_length = 1;
  const auto sizes = [&](std::int64_t samples) {
    spec.num_samples = samples;
    return index_map_sizes(spec, samples + 1);  // exactly so many in one epoch
  };
  EXPECT_EQ(sizes(100).epochs, 1);
  EXPECT_EQ(sizes(100).samples, 100);
  EXPECT_FALSE(sizes((std::int64_t{1} << 30) - 2).wide_samples);
  EXPECT_TRUE(sizes((std::int64_t{1} << 30) - 1).wide_samples);
  EXPECT_FALSE(sizes((std::int64_t{1} << 32) - 3).wide_shuffle);
  EXPECT_TRUE(sizes((std::int64_t{1} << 32) - 2).wide_shuffle);
  // Short documents: positions beyond 31 bits although the samples are few.
  spec.seq_length = 2048;
  spec.last_document = 2'000'000'000;
  spec.num_samples = 0;
  spec.num_epochs = 2;
  EXPECT_TRUE(index_map_sizes(spec, 20'000'000'000).wide_samples);
}

TEST(IndexMap, RefusesImpossibleSpecs) {
  IndexMapSpec good;
  good.last_document = 10;
  good.seq_length = 8;
  good.num_samples = 5;
  EXPECT_EQ(index_map_sizes(good, 100).samples, 12);
  const auto error = [&](auto change, std::int64_t tokens = 100) {
    IndexMapSpec spec = good;
    change(spec);
    return error_of([&] { index_map_sizes(spec, tokens); });
  };
  EXPECT_THAT(error([](auto& s) { s.last_document = 0; }), HasSubstr("no documents"));
  EXPECT_THAT(error([](auto&) {}, 0), HasSubstr("no tokens"));
  EXPECT_THAT(error([](auto& s) { s.seq_length = 0; }), HasSubstr("seq_length is 0"));
  EXPECT_THAT(error([](auto& s) { s.seed = -1; }), HasSubstr("seed is -1"));
  EXPECT_THAT(error([](auto& s) { s.seed = std::int64_t{1} << 32; }),
              HasSubstr("seed is 4294967296"));
  EXPECT_THAT(error([](auto& s) { s.num_samples = 0; }), HasSubstr("at least one"));
  EXPECT_THAT(error([](auto& s) { s.num_samples = std::int64_t{1} << 60; }),
              HasSubstr("more than this program can count"));
  EXPECT_THAT(error([](auto& s) { s.num_epochs = std::int64_t{1} << 60; }),
              HasSubstr("more than this program can count"));
  EXPECT_THAT(error([](auto& s) { s.num_epochs = 1; }, 8), HasSubstr("too few"));
}

TEST(IndexMap, TheCacheGivesTheSameMapAndCoversItsInputs) {
  TempDir dir;
  data_testing::write_dataset(dir / "a", data_testing::counting_documents(50, 20, 3));
  data_testing::write_dataset(dir / "b", data_testing::counting_documents(50, 20, 4));
  const IndexedDataset a(dir / "a"), b(dir / "b");
  IndexMapSpec spec;
  spec.last_document = 50;
  spec.seq_length = 8;
  spec.num_samples = 100;
  const auto same = [](const IndexMap& x, const IndexMap& y) {
    return std::ranges::equal(x.doc_idx(), y.doc_idx()) &&
           std::ranges::equal(x.sample_idx_bytes(), y.sample_idx_bytes()) &&
           std::ranges::equal(x.shuffle_idx_bytes(), y.shuffle_idx_bytes());
  };
  const auto check = [&](const IndexedDataset& data, const IndexMapSpec& of) {
    const IndexMap memory = IndexMap::make(data, of);
    const IndexMap first = IndexMap::make(data, of, dir / "cache", "x");
    const IndexMap second = IndexMap::make(data, of, dir / "cache", "x");
    EXPECT_FALSE(memory.from_file());
    EXPECT_TRUE(second.from_file());
    EXPECT_TRUE(same(memory, first) && same(memory, second));
  };
  const auto files = [&] {
    return std::distance(std::filesystem::directory_iterator(dir / "cache"),
                         std::filesystem::directory_iterator());
  };
  check(a, spec);
  EXPECT_EQ(files(), 1);
  check(b, spec);
  EXPECT_EQ(files(), 2);  // other lengths
  spec.seed = 5;
  check(a, spec);
  spec.first_document = 1;
  check(a, spec);
  spec.last_document = 49;
  check(a, spec);
  spec.seq_length = 9;
  check(a, spec);
  spec.num_samples = 1000;
  check(a, spec);
  EXPECT_EQ(files(), 7);
}

// GPT-NeoX's own arrays, byte for byte.
TEST(IndexMap, ReproducesTheSharedMaps) {
  NEOX_NEED_SHARED_DATA(folder, "dataset/shakespeare");
  const IndexedDataset data(folder + "/shakespeare_text_document");
  const auto manifest =
      nlohmann::json::parse(data_testing::read_file(folder + "/shakespeare_manifest.json"));
  ASSERT_GE(manifest["cases"].size(), 5u);
  for (const auto& one : manifest["cases"]) {
    const auto part = one["part"].get<std::string>();
    const std::size_t k = part == "train" ? 0 : part == "valid" ? 1 : 2;
    const auto cuts = split_boundaries(one["split"].get<std::string>(), data.size());
    EXPECT_EQ(cuts, one["cuts"].get<Boundaries>());
    IndexMapSpec spec;
    spec.first_document = cuts[k];
    spec.last_document = cuts[k + 1];
    spec.seq_length = one["seq_length"];
    spec.num_samples = one["num_samples"];
    spec.seed = one["seed"];
    const IndexMap map = IndexMap::make(data, spec);
    EXPECT_EQ(map.epochs(), one["num_epochs"].get<std::int64_t>());
    EXPECT_EQ(map.size(), one["n_samples_built"].get<std::int64_t>());
    auto stem = folder + "/" + one["files"].get<std::string>();
    stem.resize(stem.find('{'));
    const auto equal = [](std::span<const std::byte> got, const data_testing::Npy& want) {
      return std::ranges::equal(got, std::as_bytes(std::span(want.data)));
    };
    EXPECT_TRUE(equal(std::as_bytes(map.doc_idx()), data_testing::read_npy(stem + "doc_idx.npy")));
    EXPECT_TRUE(equal(map.sample_idx_bytes(), data_testing::read_npy(stem + "sample_idx.npy")));
    EXPECT_TRUE(equal(map.shuffle_idx_bytes(), data_testing::read_npy(stem + "shuffle_idx.npy")));
    EXPECT_THAT(data_testing::read_npy(stem + "sample_idx.npy").header, HasSubstr("<i4"));
    EXPECT_THAT(data_testing::read_npy(stem + "shuffle_idx.npy").header, HasSubstr("<u4"));
  }
}

}  // namespace
}  // namespace neox
