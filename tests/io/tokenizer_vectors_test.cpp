// Real tokenizer files against ids made by other programs.
#include <filesystem>
#include <fstream>
#include <sstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "io/tokenizer/bpe_tokenizer.h"
#include "io/tokenizer/tokenizer.h"
#include "tests/io/sha256.h"

namespace neox {
namespace {

using Json = nlohmann::json;
using Ids = std::vector<std::int32_t>;

const std::string kData = std::string(NEOX_SOURCE_DIR) + "/../shared/data/";
const std::string kGpt2 = kData + "tokenizers/gpt2/gpt2.tokenizer.json";
const std::string kNeox = kData + "tokenizers/gpt-neox/20B_tokenizer.json";

std::string read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream all;
  all << in.rdbuf();
  EXPECT_TRUE(in.good()) << path;
  return std::move(all).str();
}

std::string ids_sha256(const Ids& ids) {
  std::string bytes;
  for (const std::int32_t id : ids) {
    for (int shift = 0; shift < 32; shift += 8) {
      bytes.push_back(static_cast<char>(static_cast<std::uint32_t>(id) >> shift & 0xFF));
    }
  }
  return sha256_hex(bytes);
}

class TokenizerVectors : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists(kGpt2)) GTEST_SKIP() << "no tokenizer files in " << kData;
    gpt2_ = load_tokenizer("HFTokenizer", kGpt2);
    neox_ = load_tokenizer("", kNeox);
  }
  std::unique_ptr<Tokenizer> gpt2_, neox_;
};

TEST_F(TokenizerVectors, SizesAndEndOfDocument) {
  EXPECT_EQ(gpt2_->vocab_size(), 50257);
  EXPECT_EQ(gpt2_->eod_id(), 50256);
  EXPECT_EQ(neox_->vocab_size(), 50277);
  EXPECT_EQ(neox_->eod_id(), 0);
  EXPECT_EQ(neox_->token_to_id("<|padding|>"), 1);
}

TEST_F(TokenizerVectors, EdgeCases) {
  const Json cases = Json::parse(read_file(kData + "tokenizers/edge_cases.json"));
  ASSERT_GE(cases.size(), 15u);
  for (const Json& item : cases) {
    const auto text = item["text"].get<std::string>();
    for (const auto& [name, tokenizer] : {std::pair{"gpt2", gpt2_.get()}, {"neox", neox_.get()}}) {
      const Ids ids = tokenizer->encode(text);
      EXPECT_EQ(ids, item[name].get<Ids>()) << name << ": " << text;
      const Json& decoded = item[std::string(name) + "_decoded"];
      EXPECT_EQ(tokenizer->decode(ids), decoded.is_string() ? decoded.get<std::string>() : text);
    }
  }
}

TEST_F(TokenizerVectors, WholeFilesAndLines) {
  const Json files = Json::parse(read_file(kData + "tokenizers/expected_ids.json"));
  ASSERT_GE(files.size(), 9u);
  for (const auto& [path, expected] : files.items()) {
    const std::string text = read_file(kData + path);
    for (const auto& [name, tokenizer] : {std::pair{"gpt2", gpt2_.get()}, {"neox", neox_.get()}}) {
      const Json& want = expected[name];
      const Ids ids = tokenizer->encode(text);
      EXPECT_EQ(ids.size(), want["n_ids"]) << name << " " << path;
      EXPECT_EQ(ids_sha256(ids), want["ids_u32le_sha256"]) << name << " " << path;
      if (std::string_view(name) == "gpt2") {
        EXPECT_EQ(tokenizer->decode(ids), text);
      }
      Ids by_line;
      std::size_t lines = 0;
      for (std::size_t at = 0; at <= text.size(); ++lines) {
        const std::size_t end = std::min(text.find('\n', at), text.size());
        tokenizer->encode(std::string_view(text).substr(at, end - at), by_line);
        at = end + 1;
      }
      EXPECT_EQ(lines, want["by_line"]["n_lines"]) << path;
      EXPECT_EQ(ids_sha256(by_line), want["by_line"]["ids_u32le_sha256"]) << name << " " << path;
    }
  }
}

TEST_F(TokenizerVectors, LlamaCppGpt2Vectors) {
  const std::string separator = "\n__ggml_vocab_test__\n";
  const std::string texts = read_file(kData + "tokenizers/gpt2/llamacpp-gpt-2.inp");
  std::istringstream answers(read_file(kData + "tokenizers/gpt2/llamacpp-gpt-2.out"));
  std::size_t at = 0, count = 0;
  for (std::string line; at < texts.size() && std::getline(answers, line); ++count) {
    const std::size_t end = std::min(texts.find(separator, at), texts.size());
    std::istringstream numbers(line);
    const Ids want{std::istream_iterator<std::int32_t>(numbers), {}};
    const std::string text = texts.substr(at, end - at);
    EXPECT_EQ(gpt2_->encode(text), want) << text;
    at = end + separator.size();
  }
  EXPECT_EQ(count, 46u);
}

TEST_F(TokenizerVectors, VocabAndMergesEqualTheJson) {
  const auto pair = load_tokenizer("", kData + "tokenizers/gpt2/vocab.json",
                                   kData + "tokenizers/gpt2/merges.txt");
  EXPECT_EQ(pair->vocab_size(), 50257);
  EXPECT_EQ(pair->eod_id(), 50256);
  const std::string text = read_file(kData + "corpus/archives/blns.txt") + "<|endoftext|> x";
  EXPECT_EQ(pair->encode(text), gpt2_->encode(text));
}

}  // namespace
}  // namespace neox
