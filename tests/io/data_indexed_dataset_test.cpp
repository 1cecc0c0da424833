#include <filesystem>
#include <limits>
#include <random>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "core/base/error.h"
#include "io/data/indexed_dataset.h"
#include "tests/io/data_support.h"

namespace neox {
namespace {

using data_testing::Documents;
using data_testing::error_of;
using data_testing::read_file;
using data_testing::TempDir;
using data_testing::write_file;
using ::testing::AllOf;
using ::testing::HasSubstr;
namespace fs = std::filesystem;

const Documents kText = {{5, 6, 7}, {}, {300}, {1, 2, 3, 4}};

std::vector<std::int32_t> all_tokens(const IndexedDataset& data, std::int64_t i) {
  std::vector<std::int32_t> out(static_cast<std::size_t>(data.length(i)));
  data.tokens(i, 0, out);
  return out;
}

std::string bytes_of(std::initializer_list<int> values) {
  std::string out;
  for (const int value : values) out.push_back(static_cast<char>(value));
  return out;
}

TEST(IndexedDatasetWriter, WritesTheFormatByteForByte) {
  TempDir dir;
  data_testing::write_dataset(dir / "a", {{1, 2, 258}, {65535}});
  EXPECT_EQ(read_file(dir / "a.bin"), bytes_of({1, 0, 2, 0, 2, 1, 255, 255}));
  const std::string idx = bytes_of({'M', 'M', 'I', 'D', 'I', 'D', 'X', 0, 0}) +
                          bytes_of({1, 0, 0, 0, 0, 0, 0, 0}) + bytes_of({8}) +
                          bytes_of({2, 0, 0, 0, 0, 0, 0, 0}) + bytes_of({3, 0, 0, 0, 0, 0, 0, 0}) +
                          bytes_of({3, 0, 0, 0, 1, 0, 0, 0}) +
                          bytes_of({0, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0}) +
                          bytes_of({0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0}) +
                          bytes_of({2, 0, 0, 0, 0, 0, 0, 0});
  EXPECT_EQ(read_file(dir / "a.idx"), idx);
}

TEST(IndexedDataset, ReadsBackEveryElementType) {
  TempDir dir;
  for (const DType dtype : {DType::u16, DType::i16, DType::i32, DType::i64}) {
    const std::string prefix = dir / std::string(name_of(dtype));
    data_testing::write_dataset(prefix, kText, dtype);
    const IndexedDataset data(prefix);
    EXPECT_EQ(data.dtype(), dtype);
    ASSERT_EQ(data.size(), 4);
    EXPECT_EQ(data.num_documents(), 4);
    EXPECT_EQ(data.num_tokens(), 8);
    EXPECT_EQ(data.num_tokens(1, 3), 1);
    EXPECT_EQ(data.num_tokens(4, 4), 0);
    for (std::int64_t i = 0; i < 4; ++i) {
      EXPECT_EQ(all_tokens(data, i), kText[static_cast<std::size_t>(i)]);
    }
    std::vector<std::int32_t> part(2);
    data.tokens(3, 1, part);
    EXPECT_EQ(part, (std::vector<std::int32_t>{2, 3}));
    const TokenRange range = data.token_range();
    EXPECT_EQ(range.min, 1);
    EXPECT_EQ(range.max, 300);
  }
  data_testing::write_dataset(dir / "u8", {{0, 255}}, DType::u8);
  EXPECT_EQ(all_tokens(IndexedDataset(dir / "u8"), 0), (std::vector<std::int32_t>{0, 255}));
  data_testing::write_dataset(dir / "i8", {{-100, 127}}, DType::i8);
  EXPECT_EQ(all_tokens(IndexedDataset(dir / "i8"), 0), (std::vector<std::int32_t>{-100, 127}));
}

TEST(IndexedDataset, KeepsDocumentsOfSeveralSequences) {
  TempDir dir;
  IndexedDatasetWriter writer(dir / "a", DType::i32);
  const std::vector<std::int32_t> sequence = {9, 8};
  for (int document = 0; document < 5; ++document) {  // 1, 1, 2, 0 and 3 sequences
    for (int s = 0; s < std::array{1, 1, 2, 0, 3}[static_cast<std::size_t>(document)]; ++s) {
      writer.add_sequence(sequence);
    }
    writer.end_document();
  }
  EXPECT_EQ(writer.num_documents(), 5);
  EXPECT_EQ(writer.num_sequences(), 7);
  EXPECT_EQ(writer.num_tokens(), 14);
  writer.finish();
  const IndexedDataset data(dir / "a");
  ASSERT_EQ(data.num_documents(), 5);
  const std::vector<std::int64_t> want = {0, 1, 2, 4, 4, 7};
  for (std::size_t d = 0; d < want.size(); ++d) {
    EXPECT_EQ(data.document_begin(static_cast<std::int64_t>(d)), want[d]);
  }
}

TEST(IndexedDataset, LargeSequencesCrossTheWriteBuffer) {
  TempDir dir;
  std::vector<std::int32_t> tokens(3'000'001);
  for (std::size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<std::int32_t>(i);
  IndexedDatasetWriter writer(dir / "a", DType::i32);
  writer.add_sequence(tokens);
  writer.end_document();
  writer.add_sequence(std::span(tokens).first(5));
  writer.end_document();
  writer.finish();
  const IndexedDataset data(dir / "a");
  EXPECT_EQ(all_tokens(data, 0), tokens);
  EXPECT_EQ(all_tokens(data, 1), (std::vector<std::int32_t>{0, 1, 2, 3, 4}));
  EXPECT_EQ(data.token_range().max, 3'000'000);
}

TEST(IndexedDataset, TokenRangeIsExactOverSeveralThreads) {
  TempDir dir;
  const std::size_t n = 9'000'000;  // more than one thread's share, not a multiple of it
  for (const std::size_t at : {std::size_t{0}, n / 2, n - 1}) {
    std::vector<std::int32_t> tokens(n, 1000);
    tokens[at] = 50000;
    tokens[n - 1 - at] = at == n / 2 ? tokens[n - 1 - at] : 3;
    IndexedDatasetWriter writer(dir / "a", DType::u16);
    writer.add_sequence(tokens);
    writer.end_document();
    writer.finish();
    const TokenRange range = IndexedDataset(dir / "a").token_range();
    EXPECT_EQ(range.max, 50000);
    EXPECT_EQ(range.min, at == n / 2 ? 1000 : 3);
  }
}

TEST(IndexedDatasetWriter, NothingAppearsBeforeFinish) {
  TempDir dir;
  data_testing::write_dataset(dir / "a", {{1}});
  const std::string bin = read_file(dir / "a.bin"), idx = read_file(dir / "a.idx");
  {
    IndexedDatasetWriter writer(dir / "a", DType::u16);
    writer.add_sequence(std::vector<std::int32_t>(100, 7));
    writer.end_document();
    EXPECT_THAT(error_of([&] { IndexedDatasetWriter(dir / "a", DType::u16); }),
                HasSubstr("another process is writing"));
  }
  EXPECT_EQ(read_file(dir / "a.bin"), bin);
  EXPECT_EQ(read_file(dir / "a.idx"), idx);
  EXPECT_FALSE(fs::exists(dir / "a.bin.partial"));
  write_file(dir / "a.bin.partial", "left by a crash");
  data_testing::write_dataset(dir / "a", {{4, 5}});
  EXPECT_EQ(all_tokens(IndexedDataset(dir / "a"), 0), (std::vector<std::int32_t>{4, 5}));
  EXPECT_EQ(std::distance(fs::directory_iterator(dir.str()), fs::directory_iterator()), 2);
}

TEST(IndexedDatasetWriter, RefusesWhatTheFormatCannotHold) {
  TempDir dir;
  IndexedDatasetWriter writer(dir / "a", DType::u16);
  const std::vector<std::int32_t> good = {1}, large = {1, 65536}, negative = {-1};
  writer.add_sequence(good);
  writer.end_document();
  EXPECT_THAT(error_of([&] { writer.add_sequence(large); }),
              AllOf(HasSubstr("sequence 1, position 1"), HasSubstr("65536"), HasSubstr("u16")));
  EXPECT_THAT(error_of([&] { writer.add_sequence(negative); }), HasSubstr("token -1"));
  writer.add_sequence(good);
  EXPECT_THAT(error_of([&] { writer.finish(); }), HasSubstr("last document was not ended"));
  writer.end_document();
  writer.finish();
  EXPECT_THAT(error_of([&] { writer.add_sequence(good); }), HasSubstr("finished"));
  EXPECT_THAT(error_of([&] { writer.finish(); }), HasSubstr("finished"));
  EXPECT_EQ(IndexedDataset(dir / "a").size(), 2);
  EXPECT_THAT(error_of([&] { IndexedDatasetWriter(dir / "b", DType::f32); }), HasSubstr("f32"));
  EXPECT_THAT(error_of([&] { IndexedDatasetWriter(dir / "none/b", DType::u16); }),
              AllOf(HasSubstr("none/b.bin.partial"), HasSubstr("No such file")));
}

TEST(IndexedDatasetWriter, AFailedWriteIsReportedAndLeavesTheOldFiles) {
  TempDir dir;
  data_testing::write_dataset(dir / "a", {{1}});
  const std::string idx = read_file(dir / "a.idx");
  data_testing::FileSizeLimit limit(4096);
  EXPECT_THAT(error_of([&] {
                IndexedDatasetWriter writer(dir / "a", DType::u16);
                writer.add_sequence(std::vector<std::int32_t>(5000, 7));
                writer.end_document();
                writer.finish();
              }),
              AllOf(HasSubstr("a.bin.partial"), HasSubstr("File too large")));
  EXPECT_EQ(read_file(dir / "a.idx"), idx);
  EXPECT_EQ(all_tokens(IndexedDataset(dir / "a"), 0), (std::vector<std::int32_t>{1}));
  EXPECT_FALSE(fs::exists(dir / "a.bin.partial"));
}

struct Damage {
  const char* what;
  std::function<void(std::string& idx, std::string& bin)> apply;
  const char* says;
};

void poke64(std::string& bytes, std::size_t at, std::int64_t value) {
  std::memcpy(bytes.data() + at, &value, sizeof value);
}
void poke32(std::string& bytes, std::size_t at, std::int32_t value) {
  std::memcpy(bytes.data() + at, &value, sizeof value);
}

// kText: lengths at 34, offsets at 50, boundaries at 82, 122 bytes.
TEST(IndexedDataset, NamesWhatIsWrong) {
  const Damage table[] = {
      {"empty idx", [](auto& idx, auto&) { idx.clear(); }, "holds 0 bytes"},
      {"magic", [](auto& idx, auto&) { idx[0] = 'X'; }, "does not start with MMIDIDX"},
      {"magic end", [](auto& idx, auto&) { idx[8] = 1; }, "does not start with MMIDIDX"},
      {"old format",
       [](auto& idx, auto&) {
         idx.replace(0, 8, bytes_of({'T', 'N', 'T', 'I', 'D', 'X', 0, 0}));
       },
       "old 'cached' format"},
      {"version", [](auto& idx, auto&) { idx[9] = 2; }, "version 2"},
      {"element code", [](auto& idx, auto&) { idx[17] = 9; }, "element code 9"},
      {"element code 0", [](auto& idx, auto&) { idx[17] = 0; }, "element code 0"},
      {"floats", [](auto& idx, auto&) { idx[17] = 6; }, "floating-point"},
      {"wrong element size", [](auto& idx, auto&) { idx[17] = 4; }, "sequence 1 starts at byte 6"},
      {"sequence count", [](auto& idx, auto&) { poke64(idx, 18, 5); }, "5 sequences"},
      {"huge count", [](auto& idx, auto&) { poke64(idx, 18, -1); }, "truncated or damaged"},
      {"overflowing counts", [](auto& idx, auto&) { poke64(idx, 18, std::int64_t{1} << 62); },
       "truncated or damaged"},
      {"boundary count", [](auto& idx, auto&) { poke64(idx, 26, 4); }, "4 document boundaries"},
      {"no boundaries",
       [](auto& idx, auto&) {
         poke64(idx, 26, 0);
         idx.resize(82);
       },
       "no document boundaries"},
      {"negative length", [](auto& idx, auto&) { poke32(idx, 34, -3); },
       "sequence 0 has -3 tokens"},
      {"length", [](auto& idx, auto&) { poke32(idx, 34, 4); },
       "sequence 1 starts at byte 6, but the ones before it end at 8"},
      {"last length", [](auto& idx, auto&) { poke32(idx, 46, 5); }, "it is truncated"},
      {"first offset", [](auto& idx, auto&) { poke64(idx, 50, 2); }, "sequence 0 starts at byte 2"},
      {"offset beyond",
       [](auto& idx, auto&) { poke64(idx, 58, std::numeric_limits<std::int64_t>::max()); },
       "sequence 1 starts at"},
      {"first boundary", [](auto& idx, auto&) { poke64(idx, 82, 1); }, "document boundary 0 is 1"},
      {"boundaries fall", [](auto& idx, auto&) { poke64(idx, 90, 3); }, "document boundary 2 is 2"},
      {"boundary beyond", [](auto& idx, auto&) { poke64(idx, 106, 5); },
       "document boundary 3 is 5"},
      {"last boundary", [](auto& idx, auto&) { poke64(idx, 114, 3); },
       "the last document ends at sequence 3, but there are 4"},
      {"longer idx", [](auto& idx, auto&) { idx += '\0'; }, "holds 123 bytes"},
      {"empty bin", [](auto&, auto& bin) { bin.clear(); }, "holds 0 bytes, but"},
      {"odd bin", [](auto&, auto& bin) { bin.pop_back(); }, "it is truncated"},
      {"longer bin", [](auto&, auto& bin) { bin += "ab"; }, "don't belong together"},
  };
  TempDir dir;
  data_testing::write_dataset(dir / "good", kText);
  for (const auto& damage : table) {
    std::string idx = read_file(dir / "good.idx"), bin = read_file(dir / "good.bin");
    ASSERT_EQ(idx.size(), 122u);
    damage.apply(idx, bin);
    write_file(dir / "bad.idx", idx);
    write_file(dir / "bad.bin", bin);
    EXPECT_THAT(error_of([&] { IndexedDataset(dir / "bad"); }),
                AllOf(HasSubstr(damage.says), HasSubstr("bad.")))
        << damage.what;
  }
}

TEST(IndexedDataset, NamesMissingFilesAndDirectories) {
  TempDir dir;
  data_testing::write_dataset(dir / "a", kText);
  EXPECT_THAT(error_of([&] { IndexedDataset(dir / "b"); }),
              AllOf(HasSubstr("b.bin"), HasSubstr("neox_preprocess")));
  EXPECT_THAT(error_of([&] { IndexedDataset(""); }), HasSubstr("data_path"));
  EXPECT_THAT(error_of([&] { IndexedDataset(dir / "a.bin"); }),
              HasSubstr("without the ending, here '" + dir / "a'"));
  EXPECT_THAT(error_of([&] { IndexedDataset(dir / "a.idx"); }), HasSubstr("without the ending"));
  fs::remove(dir / "a.bin");
  EXPECT_THAT(error_of([&] { IndexedDataset(dir / "a"); }),
              AllOf(HasSubstr("a.bin"), HasSubstr("beside it"), HasSubstr("neox_preprocess")));
  fs::create_directory(dir / "a.bin");
  EXPECT_THAT(error_of([&] { IndexedDataset(dir / "a"); }), HasSubstr("is a directory"));
  fs::create_directory(dir / "c.idx");
  EXPECT_THAT(error_of([&] { IndexedDataset(dir / "c"); }), HasSubstr("is a directory"));
  data_testing::write_dataset(dir / "d", kText);
  fs::remove(dir / "d.idx");
  EXPECT_THAT(error_of([&] { IndexedDataset(dir / "d"); }), HasSubstr("has no"));
}

TEST(IndexedDataset, TruncationAtEveryLengthIsAnError) {
  TempDir dir;
  data_testing::write_dataset(dir / "a", kText);
  const std::string idx = read_file(dir / "a.idx"), bin = read_file(dir / "a.bin");
  for (std::size_t length = 0; length < idx.size(); ++length) {
    write_file(dir / "a.idx", idx.substr(0, length));
    EXPECT_THAT(error_of([&] { IndexedDataset(dir / "a"); }), HasSubstr("a.idx")) << length;
  }
  write_file(dir / "a.idx", idx);
  for (std::size_t length = 0; length < bin.size(); ++length) {
    write_file(dir / "a.bin", bin.substr(0, length));
    EXPECT_THAT(error_of([&] { IndexedDataset(dir / "a"); }), HasSubstr("a.bin")) << length;
  }
}

// Any damage gives either an Error or a dataset that can be read from end to end.
TEST(IndexedDataset, SurvivesRandomBytes) {
  TempDir dir;
  data_testing::write_dataset(dir / "a", kText);
  const std::string idx = read_file(dir / "a.idx");
  std::mt19937 rng(1);
  int opened = 0, refused = 0;
  for (int round = 0; round < 2000; ++round) {
    std::string damaged = idx;
    const std::size_t flips = 1 + rng() % 3;
    for (std::size_t f = 0; f < flips; ++f) {
      damaged[rng() % damaged.size()] ^=
          static_cast<char>(round % 2 == 0 ? 1u << (rng() % 8) : rng());
    }
    if (rng() % 8 == 0) damaged.resize(rng() % (damaged.size() + 16));
    write_file(dir / "a.idx", damaged);
    try {
      const IndexedDataset data(dir / "a");
      ++opened;
      std::int64_t sum = 0;
      for (std::int64_t i = 0; i < data.size(); ++i) {
        for (const std::int32_t token : all_tokens(data, i)) sum += token;
      }
      for (std::int64_t d = 0; d <= data.num_documents(); ++d) sum += data.document_begin(d);
      (void)data.token_range();
      EXPECT_LT(sum, std::int64_t{1} << 40);
    } catch (const Error&) {
      ++refused;
    }
  }
  EXPECT_GT(refused, 1500);
  EXPECT_EQ(opened + refused, 2000);
}

TEST(IndexedDataset, ReadsOutsideASequenceAreErrors) {
  TempDir dir;
  data_testing::write_dataset(dir / "a", kText);
  const IndexedDataset data(dir / "a");
  std::vector<std::int32_t> out(2);
  EXPECT_THAT(error_of([&] { data.tokens(4, 0, out); }), HasSubstr("sequences [0, 4), not 4"));
  EXPECT_THAT(error_of([&] { data.tokens(-1, 0, out); }), HasSubstr("not -1"));
  EXPECT_THAT(error_of([&] { data.tokens(0, 2, out); }),
              HasSubstr("has 3 tokens; asked for [2, 4)"));
  EXPECT_THAT(error_of([&] { data.tokens(0, -1, out); }), HasSubstr("asked for [-1, 1)"));
  EXPECT_THAT(error_of([&] { (void)data.num_tokens(3, 5); }), HasSubstr("not [3, 5)"));
  IndexedDatasetWriter writer(dir / "wide", DType::i64);
  writer.add_sequence(kText[0]);
  writer.end_document();
  writer.finish();
  std::string bin = read_file(dir / "wide.bin");
  poke64(bin, 8, std::int64_t{1} << 33);
  write_file(dir / "wide.bin", bin);
  EXPECT_THAT(error_of([&] { IndexedDataset(dir / "wide").tokens(0, 0, out); }),
              HasSubstr("sequence 0, position 1: token 8589934592"));
}

TEST(IndexedDataset, AnEmptyCorpusOpens) {
  TempDir dir;
  data_testing::write_dataset(dir / "a", {});
  const IndexedDataset data(dir / "a");
  EXPECT_EQ(data.size(), 0);
  EXPECT_EQ(data.num_documents(), 0);
  EXPECT_EQ(data.num_tokens(), 0);
  EXPECT_LT(data.token_range().max, data.token_range().min);
  data.check_tokens_below(1);
}

TEST(IndexedDataset, NamesTheFirstTokenBeyondTheVocabulary) {
  TempDir dir;
  data_testing::write_dataset(dir / "a", kText);
  const IndexedDataset data(dir / "a");
  for (const std::string& cache : {std::string(), dir / "cache"}) {
    data.check_tokens_below(301, cache);
    EXPECT_THAT(error_of([&] { data.check_tokens_below(300, cache); }),
                AllOf(HasSubstr("a.bin"), HasSubstr("sequence 2, position 0: token 300"),
                      HasSubstr("has 300 (0 … 299)")));
    EXPECT_THAT(error_of([&] { data.check_tokens_below(6, cache); }),
                HasSubstr("sequence 0, position 1: token 6"));
  }
  EXPECT_THAT(error_of([&] { data.check_tokens_below(0); }), HasSubstr("at least one"));
  data_testing::write_dataset(dir / "n", {{1, -1}}, DType::i32);
  EXPECT_THAT(error_of([&] { IndexedDataset(dir / "n").check_tokens_below(10); }),
              HasSubstr("sequence 0, position 1: token -1"));
}

// The cached range belongs to one state of the file: a file put in its place is read again.
TEST(IndexedDataset, ChangedTokensAreCheckedAgain) {
  TempDir dir;
  data_testing::write_dataset(dir / "a", {{1, 2, 3}});
  IndexedDataset(dir / "a").check_tokens_below(4, dir.str());
  const auto time = fs::last_write_time(dir / "a.bin");
  data_testing::write_dataset(dir / "a", {{1, 2, 4}});
  fs::last_write_time(dir / "a.bin", time);  // even with the old time
  EXPECT_THAT(error_of([&] { IndexedDataset(dir / "a").check_tokens_below(4, dir.str()); }),
              HasSubstr("position 2: token 4"));
}

TEST(IndexedDataset, FingerprintFollowsTheLengths) {
  TempDir dir;
  data_testing::write_dataset(dir / "a", {{1, 2, 3}, {4}});
  data_testing::write_dataset(dir / "b", {{9, 9, 9}, {9}});
  data_testing::write_dataset(dir / "c", {{1}, {2, 3, 4}});
  data_testing::write_dataset(dir / "d", {{1, 2, 3}, {4}, {}});
  const auto a = IndexedDataset(dir / "a").fingerprint();
  EXPECT_EQ(a, IndexedDataset(dir / "b").fingerprint());
  EXPECT_NE(a, IndexedDataset(dir / "c").fingerprint());
  EXPECT_NE(a, IndexedDataset(dir / "d").fingerprint());
}

// GPT-NeoX's own file: read, written again, equal byte for byte.
TEST(IndexedDataset, ReproducesTheSharedCorpus) {
  NEOX_NEED_SHARED_DATA(folder, "dataset/shakespeare");
  const std::string prefix = folder + "/shakespeare_text_document";
  const IndexedDataset data(prefix);
  EXPECT_EQ(data.size(), 7222);
  EXPECT_EQ(data.num_documents(), 7222);
  EXPECT_EQ(data.num_tokens(), 330807);
  EXPECT_EQ(data.dtype(), DType::u16);
  EXPECT_EQ(data.token_range().max, 50256);
  data.check_tokens_below(50257);
  data.warm_up();
  EXPECT_THAT(error_of([&] { data.check_tokens_below(50256); }), HasSubstr("token 50256"));
  TempDir dir;
  IndexedDatasetWriter writer(dir / "copy", token_dtype(50257));
  for (std::int64_t i = 0; i < data.size(); ++i) {
    writer.add_sequence(all_tokens(data, i));
    writer.end_document();
  }
  writer.finish();
  EXPECT_TRUE(read_file(dir / "copy.bin") == read_file(prefix + ".bin"));
  EXPECT_TRUE(read_file(dir / "copy.idx") == read_file(prefix + ".idx"));
}

}  // namespace
}  // namespace neox
