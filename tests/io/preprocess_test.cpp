// Text files to token files.
#include "io/data/preprocess.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <sstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <zstd.h>

#include "core/base/error.h"
#include "io/data/indexed_dataset.h"
#include "io/data/ordered_pipeline.h"
#include "io/data/text_blocks.h"
#include "io/tokenizer/bpe_trainer.h"

namespace neox {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

const std::string kData = std::string(NEOX_SOURCE_DIR) + "/../shared/data/";

std::string read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream all;
  all << in.rdbuf();
  EXPECT_TRUE(in.good()) << path;
  return std::move(all).str();
}

class PreprocessTest : public ::testing::Test {
 protected:
  PreprocessTest() { std::filesystem::create_directories(folder_ + "in"); }
  ~PreprocessTest() override { std::filesystem::remove_all(folder_); }

  std::string write(const std::string& name, const std::string& text) const {
    std::ofstream(folder_ + "in/" + name, std::ios::binary) << text;
    return folder_ + "in/" + name;
  }

  PreprocessProgress run(const std::vector<std::string>& inputs) {
    options_.inputs.files = inputs;
    options_.output_prefix = folder_ + "out";
    return preprocess(options_, *tokenizer_, {});
  }
  std::string error_of(const std::vector<std::string>& inputs) {
    try {
      run(inputs);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  }
  std::vector<std::string> documents(const std::string& key = "text") const {
    const IndexedDataset dataset(folder_ + "out_" + key + "_document");
    std::vector<std::string> texts;
    for (std::int64_t i = 0; i < dataset.size(); ++i) {
      std::vector<std::int32_t> ids(static_cast<std::size_t>(dataset.length(i)));
      dataset.tokens(i, 0, ids);
      texts.push_back(tokenizer_->decode(ids));
    }
    return texts;
  }
  bool any_output() const {
    return std::any_of(std::filesystem::directory_iterator(folder_), {},
                       [](const auto& entry) { return entry.path().filename() != "in"; });
  }

  const std::string folder_ = ::testing::TempDir() + "neox_preprocess_test/";
  std::unique_ptr<Tokenizer> tokenizer_ = load_tokenizer("CharLevelTokenizer", "");
  PreprocessOptions options_;
};

TEST_F(PreprocessTest, JsonLines) {
  const auto file = write("a.jsonl",
                          "\xEF\xBB\xBF{\"text\": \"one\", \"id\": 1}\r\n\n{\"text\": \"\"}\n"
                          "{\"id\": 2, \"text\": [\"p\", \"q\"]}\n{\"text\": \"x\", \"text\": "
                          "\"\\u00e9\\n\"}");
  const PreprocessProgress done = run({file});
  EXPECT_THAT(documents(), ElementsAre("one", "p\n\nq", "é\n"));
  EXPECT_EQ(done.documents, 3);
  EXPECT_EQ(done.empty_documents, 1);
  EXPECT_EQ(done.tokens, 10);
}

TEST_F(PreprocessTest, EachKeyHasItsOwnOutput) {
  options_.inputs.keys = {"q", "a"};
  options_.append_eod = true;
  run({write("a.jsonl", "{\"q\": \"1+1\", \"a\": \"2\"}\n{\"a\": \"4\", \"q\": \"2+2\"}\n")});
  EXPECT_THAT(documents("q"), ElementsAre(std::string("1+1\0", 4), std::string("2+2\0", 4)));
  EXPECT_THAT(documents("a"), ElementsAre(std::string("2\0", 2), std::string("4\0", 2)));
}

// Labels as text: characters without a loss are dots, the end of a document (id 0) is $.
class LabelledPreprocessTest : public PreprocessTest {
 protected:
  std::vector<std::string> labels(const std::string& key) const {
    const IndexedDataset tokens(folder_ + "out_" + key + "_document");
    const IndexedDataset labels(folder_ + "out_" + key + "_label_document");
    EXPECT_EQ(labels.dtype(), DType::i32);
    EXPECT_EQ(labels.size(), tokens.size());
    std::vector<std::string> texts;
    for (std::int64_t i = 0; i < tokens.size(); ++i) {
      EXPECT_EQ(labels.length(i), tokens.length(i));
      std::vector<std::int32_t> ids(static_cast<std::size_t>(tokens.length(i))), row(ids);
      tokens.tokens(i, 0, ids);
      labels.tokens(i, 0, row);
      std::string text;
      for (std::size_t t = 0; t < row.size(); ++t) {
        EXPECT_TRUE(row[t] == ids[t] || row[t] == -100) << row[t];
        text += row[t] < 0 ? '.' : row[t] == 0 ? '$' : static_cast<char>(row[t]);
      }
      texts.push_back(text);
    }
    return texts;
  }
};

TEST_F(LabelledPreprocessTest, PromptsAndCompletions) {
  options_.labels.source = LabelSource::prompt_completion;
  options_.inputs.keys = {"prompt", "completion"};
  options_.append_eod = true;
  const PreprocessProgress done =
      run({write("a.jsonl",
                 "{\"completion\": \"2\", \"prompt\": \"1+1=\"}\n{\"prompt\": \"\", "
                 "\"completion\": \"xyz\"}\n{\"prompt\": \"left out\", \"completion\": \"\"}\n")});
  EXPECT_THAT(documents(), ElementsAre(std::string("1+1=2\0", 6), std::string("xyz\0", 4)));
  EXPECT_THAT(labels("text"), ElementsAre("....2$", "xyz$"));
  EXPECT_EQ(done.documents, 2);
  EXPECT_EQ(done.empty_documents, 1);
  EXPECT_EQ(done.labels, 6);
  EXPECT_EQ(done.without_labels, 0);
  options_.append_eod = false;
  run({write("a.jsonl", "{\"prompt\": \"a\", \"completion\": \"b\"}\n")});
  EXPECT_THAT(labels("text"), ElementsAre(".b"));
  EXPECT_THAT(error_of({write("b.jsonl", "{\"prompt\": \"a\"}\n")}),
              HasSubstr("b.jsonl:1: no key 'completion'"));
}

TEST_F(LabelledPreprocessTest, Conversations) {
  options_.labels.source = LabelSource::conversations;
  options_.labels.chat_template = "plain";
  options_.inputs.keys = {"messages"};
  options_.append_eod = true;
  const std::string user = "{\"role\": \"user\", \"content\": \"Hi\"}";
  const std::string model = "{\"content\": \"Yo\", \"role\": \"assistant\"}";
  const std::string lines = "{\"messages\": [" + user + ", " + model + "]}\n{\"messages\": [" +
                            model + ", " + user + "]}\n{\"messages\": []}\n";
  const PreprocessProgress done = run({write("a.jsonl", lines)});
  EXPECT_THAT(documents("messages"),
              ElementsAre(std::string("User: Hi\n\nAssistant: Yo\n\n\0", 26),
                          std::string("Assistant: Yo\n\nUser: Hi\n\n\0", 26)));
  EXPECT_THAT(labels("messages"),
              ElementsAre(std::string(20, '.') + " Yo\n\n$",
                          std::string(10, '.') + " Yo\n\n" + std::string(11, '.')));
  EXPECT_EQ(done.labels, 11);
  EXPECT_EQ(done.empty_documents, 1);
  options_.labels.chat.only_last = true;
  EXPECT_EQ(run({write("a.jsonl", lines)}).without_labels, 1);
  EXPECT_THAT(labels("messages"),
              ElementsAre(std::string(20, '.') + " Yo\n\n$", std::string(26, '.')));
}

TEST_F(LabelledPreprocessTest, Delimiter) {
  options_.labels.source = LabelSource::delimiter;
  options_.labels.delimiter = {'A', ':'};
  options_.append_eod = true;
  run({write(
      "a.jsonl",
      "{\"text\": \"Q: AA: x A: y\"}\n{\"text\": \"none\"}\n{\"text\": \"at the end A:\"}\n")});
  EXPECT_THAT(labels("text"), ElementsAre("...... x A: y$", "none$", std::string(14, '.')));
}

TEST_F(LabelledPreprocessTest, BadConversations) {
  options_.labels.source = LabelSource::conversations;
  options_.labels.chat_template = "zephyr";
  options_.inputs.keys = {"messages"};
  const auto error = [&](const std::string& line) {
    return error_of({write("a.jsonl", "{\"messages\": []}\n" + line)});
  };
  EXPECT_THAT(error("{\"messages\": \"text\"}"), HasSubstr("a.jsonl:2: the value of key 'messages' "
                                                           "is \"text\"; expected a list"));
  EXPECT_THAT(error("{\"messages\": [1]}"), HasSubstr("message 1 is 1; expected {\"role\""));
  EXPECT_THAT(error("{\"messages\": [{\"role\": \"user\"}]}"),
              HasSubstr("a.jsonl:2: message 1 has no string \"content\": {\"role\":\"user\"}"));
  EXPECT_THAT(error("{\"messages\": [{\"role\": \"tool\", \"content\": \"x\"}]}"),
              HasSubstr("a.jsonl:2: message 1 has the role 'tool'"));
  EXPECT_THAT(error("{\"messages\": []}"), HasSubstr("have no text"));
  EXPECT_THAT(error_of({write("a.txt", "x")}), HasSubstr("conversations are read from .jsonl"));
  EXPECT_FALSE(any_output());
}

TEST_F(PreprocessTest, PlainText) {
  const auto file = write("a.txt", "one\ntwo\n\n\nthree\n");
  run({file});
  EXPECT_THAT(documents(), ElementsAre("one\ntwo\n\n\nthree\n"));
  options_.inputs.separator = "\n";
  run({file});
  EXPECT_THAT(documents(), ElementsAre("one", "two", "three"));
  options_.inputs.separator = "\n\n";
  run({file});
  EXPECT_THAT(documents(), ElementsAre("one\ntwo", "\nthree\n"));
}

TEST_F(PreprocessTest, DirectoriesInOrder) {
  write("b.txt", "second");
  write("a.jsonl", "{\"text\": \"first\"}");
  write("ignored.bin", "xx");
  run({folder_ + "in"});
  EXPECT_THAT(documents(), ElementsAre("first", "second"));
}

TEST_F(PreprocessTest, CompressedInFrames) {
  std::string packed;
  for (const std::string part : {"{\"text\": \"o", "ne\"}\n{\"text\": \"two\"}\n"}) {
    std::string frame(ZSTD_compressBound(part.size()), '\0');
    frame.resize(ZSTD_compress(frame.data(), frame.size(), part.data(), part.size(), 3));
    packed += frame;
  }
  run({write("a.jsonl.zst", packed)});
  EXPECT_THAT(documents(), ElementsAre("one", "two"));
  EXPECT_THAT(error_of({write("b.jsonl.zst", packed.substr(0, packed.size() - 5))}),
              HasSubstr("b.jsonl.zst"));
  EXPECT_THAT(error_of({write("c.jsonl.zst", "{\"text\": \"one\"}\n")}), HasSubstr("c.jsonl.zst"));
}

TEST_F(PreprocessTest, NothingDependsOnTheNumberOfWorkers) {
  std::string lines;
  for (int i = 0; i < 60000; ++i) {
    lines += "{\"text\": \"" + std::string(static_cast<std::size_t>(i % 97), 'x') +
             std::to_string(i) + "\"}\n";
  }
  const auto file = write("a.jsonl", lines);
  std::string bin, idx;
  for (const int workers : {1, 2, 5}) {
    options_.inputs.workers = workers;
    EXPECT_EQ(run({file, file}).documents, 120000);
    if (workers == 1) {
      bin = read_file(folder_ + "out_text_document.bin");
      idx = read_file(folder_ + "out_text_document.idx");
    }
    EXPECT_EQ(read_file(folder_ + "out_text_document.bin"), bin);
    EXPECT_EQ(read_file(folder_ + "out_text_document.idx"), idx);
  }
}

TEST_F(PreprocessTest, ErrorsNameThePlaceAndLeaveNoFiles) {
  struct Case {
    const char* name;
    std::string text;
    const char* message;
  };
  const std::string good = "{\"text\": \"fine\"}\n";
  const std::vector<Case> cases = {
      {"a.jsonl", good + "{\"text\": \"x\"\n", "a.jsonl:2: not valid JSON"},
      {"a.jsonl", good + good + "{\"txt\": \"x\", \"id\": 3}\n",
       "a.jsonl:3: no key 'text'; the object has 'txt', 'id'"},
      {"a.jsonl", "{\"text\": 3}", "a.jsonl:1: the value of key 'text' is 3"},
      {"a.jsonl", "{\"text\": [\"a\", 3]}", "a.jsonl:1: the list of key 'text' has 3"},
      {"a.jsonl", "[1]", "a.jsonl:1: expected an object"},
      {"a.jsonl", "{\"text\": \"\\ud800\"}", "a.jsonl:1: not valid JSON"},
      {"a.jsonl", good + "{\"text\": \"a\xFF\"}\n",
       "a.jsonl:2: not valid UTF-8: byte 0xFF at offset 28 of the file (11 of the line)"},
      {"a.jsonl", "\n\n", "no text"},
      {"a.jsonl", "{\"text\": \"\"}\n", "no text"},
      {"a.txt", "one\ntwo \xE6\x97", "a.txt:2: not valid UTF-8: byte 0xE6 at offset 8"},
      {"a.txt", "", "no text"},
      {"a.txt.gz", "not gzip", "a.txt.gz"},
      {"a.tar", "not a tar", "a.tar"},
      {"a.zip", "not a zip", "a.zip"},
      {"a.csv", "x", "a.csv: unknown kind of file"},
  };
  for (const Case& bad : cases) {
    EXPECT_THAT(error_of({write(bad.name, bad.text)}), HasSubstr(bad.message)) << bad.text;
    EXPECT_FALSE(any_output()) << bad.message;
  }
  EXPECT_THAT(error_of({folder_ + "absent.jsonl"}), HasSubstr("absent.jsonl does not exist"));
  EXPECT_THAT(error_of({}), HasSubstr("no input"));
  std::filesystem::create_directories(folder_ + "in/empty");
  EXPECT_THAT(error_of({folder_ + "in/empty"}), HasSubstr("no file that neox reads"));
  options_.inputs.keys = {"a", "a"};
  EXPECT_THAT(error_of({write("a.jsonl", good)}), HasSubstr("given twice"));
  options_.inputs.keys = {"a", "b"};
  EXPECT_THAT(error_of({write("a.txt", "x")}), HasSubstr("2 keys"));
  options_.inputs.keys = {"text"};
  options_.inputs.workers = 0;
  EXPECT_THAT(error_of({write("a.jsonl", good)}), HasSubstr("--workers 0"));
}

TEST(TextBlocks, BlocksDoNotChangeDocuments) {
  const std::string folder = ::testing::TempDir() + "neox_blocks_test/";
  std::filesystem::create_directories(folder);
  std::string text;
  for (int i = 0; i < 300; ++i)
    text += std::to_string(i) + std::string(static_cast<std::size_t>(i % 7), '|');
  std::ofstream(folder + "a.txt") << text;
  for (const std::string separator : {"|", "||", "0||", ""}) {
    std::vector<std::vector<std::string>> found;
    for (const std::size_t block :
         {std::size_t{1}, std::size_t{3}, std::size_t{64}, std::size_t{1} << 20}) {
      TextBlockReader reader({folder + "a.txt"}, separator, block);
      auto& documents = found.emplace_back();
      std::int64_t offset = 0;
      while (const auto part = reader.next()) {
        EXPECT_EQ(part->first_offset, offset);
        offset += static_cast<std::int64_t>(part->bytes.size());
        visit_documents(*part, {"text"},
                        [&](std::size_t, std::string_view document, const std::string&) {
                          documents.emplace_back(document);
                        });
      }
      EXPECT_EQ(offset, static_cast<std::int64_t>(text.size()));
      EXPECT_EQ(documents, found[0]) << separator << " " << block;
    }
  }
  std::filesystem::remove_all(folder);
}

TEST(OrderedPipeline, KeepsTheOrderAndTheFirstError) {
  int next = 0;
  std::vector<int> seen;
  const auto read = [&]() -> std::optional<int> {
    if (next == 500) return std::nullopt;
    return next++;
  };
  OrderedPipeline<int, int> squares(
      read, [](int, int i) { return i * i; }, [&](int square) { seen.push_back(square); });
  squares.run(4);
  ASSERT_EQ(seen.size(), 500u);
  for (int i = 0; i < 500; ++i) EXPECT_EQ(seen[static_cast<std::size_t>(i)], i * i);

  next = 0;
  seen.clear();
  OrderedPipeline<int, int> failing(
      read,
      [](int, int i) {
        require(i != 77 && i < 80, "input {}", i);
        return i;
      },
      [&](int i) { seen.push_back(i); });
  try {
    failing.run(4);
    FAIL();
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "input 77");
  }
  EXPECT_EQ(seen.size(), 77u);
}

TEST_F(PreprocessTest, CountsWordsOfLinesAndOfDocuments) {
  TextInputs inputs;
  inputs.workers = 2;
  inputs.files = {write("a.txt", "a b\n\nb")};
  std::map<std::string, std::int64_t> counts;
  const auto collect = [&](std::string_view word, std::int64_t count) {
    counts[std::string(word)] = count;
  };
  count_words(inputs, {}).for_each(collect);
  EXPECT_EQ(counts,
            (std::map<std::string, std::int64_t>{{"a", 1}, {" b", 1}, {"\n", 2}, {"b", 1}}));
  counts.clear();
  inputs.files = {write("a.jsonl", "{\"text\": \"a b\\n\\nb\"}")};
  count_words(inputs, {}).for_each(collect);
  EXPECT_EQ(counts,
            (std::map<std::string, std::int64_t>{{"a", 1}, {" b", 1}, {"\n", 2}, {"b", 1}}));
}

TEST_F(PreprocessTest, ReproducesGptNeoxTokenFiles) {
  const std::string folder = kData + "dataset/shakespeare/";
  if (!std::filesystem::exists(folder)) GTEST_SKIP() << "no " << folder;
  tokenizer_ = load_tokenizer("HFTokenizer", kData + "tokenizers/gpt2/gpt2.tokenizer.json");
  options_.append_eod = true;
  options_.inputs.workers = 3;
  run({folder + "shakespeare.jsonl"});
  for (const std::string suffix : {"bin", "idx"}) {
    EXPECT_EQ(read_file(folder_ + "out_text_document." + suffix),
              read_file(folder + "shakespeare_text_document." + suffix));
  }
}

TEST_F(PreprocessTest, ReadsLmDataformatArchives) {
  const std::string folder = kData + "corpus/archives/";
  if (!std::filesystem::exists(folder)) GTEST_SKIP() << "no " << folder;
  const std::string text = read_file(folder + "blns.txt");
  for (const char* name : {"blns.txt.tar.gz", "blns.txt.zip"}) {
    run({folder + name});
    EXPECT_THAT(documents(), ElementsAre(text)) << name;
  }
  run({folder + "blns.jsonl.zst.tar"});
  EXPECT_EQ(documents().size(), 8u);
}

TEST_F(PreprocessTest, LearnsHuggingFacesMerges) {
  const std::string file = kData + "corpus/tinyshakespeare.txt";
  if (!std::filesystem::exists(file)) GTEST_SKIP() << "no " << file;
  const auto want =
      nlohmann::json::parse(read_file(kData + "tokenizers/bpe_train_tinyshakespeare.json"));
  TextInputs inputs;
  inputs.files = {file};
  inputs.workers = 2;
  BpeTrainerOptions options;
  options.all_bytes = false;
  options.special_tokens = {};
  const auto alphabet = want["alphabet"].get<std::vector<std::string>>();
  const auto& merges = want["first_merges"];
  options.vocab_size = static_cast<std::int64_t>(alphabet.size() + merges.size());
  const TrainedBpe bpe = train_bpe(count_words(inputs, {}), options);
  EXPECT_EQ(std::vector(bpe.tokens.begin(),
                        bpe.tokens.begin() + static_cast<std::ptrdiff_t>(alphabet.size())),
            alphabet);
  ASSERT_EQ(bpe.merges.size(), merges.size());
  for (std::size_t i = 0; i < bpe.merges.size(); ++i) {
    const auto token = [&](std::int32_t id) { return bpe.tokens[static_cast<std::size_t>(id)]; };
    const std::string pair = token(bpe.merges[i].first) + " " + token(bpe.merges[i].second);
    const auto& expected = merges[i];
    ASSERT_EQ(pair, expected.is_string()
                        ? expected.get<std::string>()
                        : expected[0].get<std::string>() + " " + expected[1].get<std::string>());
  }
}

}  // namespace
}  // namespace neox
