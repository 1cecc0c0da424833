// SentencePiece models, .tiktoken files and tokenizer.json files in the manner of Llama 3, Qwen2
// and GPT-4o, held against the libraries they come from (tests/fixtures/tokenizers).
#include <filesystem>
#include <fstream>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "core/base/error.h"
#include "io/data/labelled_text.h"
#include "io/tokenizer/tokenizer.h"
#include "tests/io/data_support.h"

namespace neox {
namespace {

using data_testing::error_of;
using data_testing::TempDir;
using ::testing::AllOf;
using ::testing::HasSubstr;
using Ids = std::vector<std::int32_t>;

const std::string kFolder = NEOX_SOURCE_DIR "/tests/fixtures/tokenizers/";

const nlohmann::json& expected() {
  static const nlohmann::json all = [] {
    std::ifstream in(kFolder + "expected.json");
    return nlohmann::json::parse(in);
  }();
  return all;
}

bool is_sentencepiece(const nlohmann::json& file) {
  return file.at("file").get<std::string>().ends_with(".model");
}

std::unique_ptr<Tokenizer> load(const std::string& name) {
  return load_tokenizer("", kFolder + name);
}

TEST(TokenizerKinds, EncodeAsTheirOwnLibraries) {
  const auto texts = expected().at("texts").get<std::vector<std::string>>();
  ASSERT_GT(texts.size(), 100u);
  ASSERT_EQ(expected().at("files").size(), 10u);
  for (const auto& file : expected().at("files")) {
    SCOPED_TRACE(file.at("file"));
    const auto tokenizer = load(file.at("file"));
    EXPECT_EQ(tokenizer->vocab_size(), file.at("vocab_size"));
    for (std::size_t i = 0; i < texts.size(); ++i) {
      EXPECT_EQ(tokenizer->encode(texts[i]), file.at("ids")[i].get<Ids>()) << texts[i];
    }
    for (const auto& pair : file.at("more")) {
      EXPECT_EQ(tokenizer->encode(pair[0].get<std::string>()), pair[1].get<Ids>()) << pair[0];
    }
  }
}

TEST(TokenizerKinds, DecodeWhatTheyEncoded) {
  const auto texts = expected().at("texts").get<std::vector<std::string>>();
  for (const auto& file : expected().at("files")) {
    SCOPED_TRACE(file.at("file"));
    const bool normalises = file.at("file") == "qwen2_style.json";  // NFC
    const auto tokenizer = load(file.at("file"));
    for (std::size_t i = 0; i < texts.size(); ++i) {
      const std::string decoded = tokenizer->decode(file.at("ids")[i].get<Ids>());
      if (is_sentencepiece(file)) {
        EXPECT_EQ(decoded, file.at("decoded")[i].get<std::string>());
      } else if (!normalises) {
        EXPECT_EQ(decoded, texts[i]);
      }
    }
  }
  // Without a normaliser and with bytes to fall back on, nothing is lost.
  const auto llama = load("llama_style.model");
  for (const std::string& text : texts) {
    if (text.find("▁") != std::string::npos) continue;  // stands for a space
    EXPECT_EQ(llama->decode(llama->encode(text)), text);
  }
}

TEST(TokenizerKinds, InvalidUtf8IsRefusedAndAppendsNothing) {
  for (const auto& file : expected().at("files")) {
    SCOPED_TRACE(file.at("file"));
    const auto tokenizer = load(file.at("file"));
    for (const std::string& text :
         {std::string("ok \xff"), std::string("\xc3"), std::string("a\xed\xa0\x80")}) {
      Ids ids = {7};
      EXPECT_THAT(error_of([&] { tokenizer->encode(text, ids); }), HasSubstr("not valid UTF-8"));
      EXPECT_EQ(ids, Ids{7});
    }
    EXPECT_THAT(error_of([&] { tokenizer->id_to_bytes(-1); }), HasSubstr("not in the vocabulary"));
    EXPECT_THAT(error_of([&] {
                  tokenizer->id_to_bytes(static_cast<std::int32_t>(tokenizer->vocab_size()));
                }),
                HasSubstr("not in the vocabulary"));
  }
}

TEST(TokenizerKinds, SpecialTokens) {
  for (const auto& file : expected().at("files")) {
    SCOPED_TRACE(file.at("file"));
    const auto tokenizer = load(file.at("file"));
    ASSERT_TRUE(tokenizer->eod_id().has_value());
    if (!file.contains("special")) continue;
    for (const auto& [name, id] : file.at("special").items()) {
      EXPECT_EQ(tokenizer->token_to_id(name), id.get<std::int32_t>()) << name;
      EXPECT_EQ(tokenizer->id_to_bytes(id), name);
    }
  }
  const auto llama3 = load("llama3_small.tiktoken");
  const auto base = *llama3->token_to_id("<|begin_of_text|>");
  EXPECT_EQ(Ids(llama3->prefix_ids().begin(), llama3->prefix_ids().end()), Ids{base});
  EXPECT_EQ(llama3->eod_id(), base + 1);
  EXPECT_TRUE(load("cl100k_small.tiktoken")->prefix_ids().empty());
  // SentencePiece: <|endoftext|> where there is one, else the model's end of sentence; names of
  // control symbols in a text become those.
  const auto unigram = load("unigram.model"), llama = load("llama_style.model");
  EXPECT_EQ(unigram->id_to_bytes(*unigram->eod_id()), "<|endoftext|>");
  EXPECT_EQ(llama->eod_id(), 2);
  EXPECT_EQ(llama->token_to_id("</s>"), 2);
  EXPECT_EQ(llama->token_to_id("no such token"), std::nullopt);
  Ids want = llama->encode("Hello");
  want.push_back(2);
  const Ids after = llama->encode(" world");
  want.insert(want.end(), after.begin(), after.end());
  EXPECT_EQ(llama->encode("Hello</s> world"), want);
  EXPECT_EQ(llama->decode(want), "Hello</s>  world");
}

// A completion goes on where its prompt ended: no space of SentencePiece's in between.
TEST(TokenizerKinds, ContinuationsHaveNoSpaceOfTheirOwn) {
  for (const auto& file : expected().at("files")) {
    SCOPED_TRACE(file.at("file"));
    const auto tokenizer = load(file.at("file"));
    LabelOptions options;
    options.source = LabelSource::prompt_completion;
    const LabelledEncoder encoder(*tokenizer, options, false);
    LabelledTokens out;
    ASSERT_TRUE(encoder.add_completion("In 1900", "items there", out));
    EXPECT_EQ(tokenizer->decode(out.ids).substr(tokenizer->prefix_ids().empty() ? 0 : 17),
              "In 1900items there");
    Ids trained;
    for (const std::int32_t label : out.labels) {
      if (label >= 0) trained.push_back(label);
    }
    std::string text;
    for (const std::int32_t id : trained) text += tokenizer->id_to_bytes(id);
    EXPECT_EQ(text, "items there");
  }
  const auto llama = load("llama_style.model");
  EXPECT_EQ(llama->id_to_bytes(llama->encode("items")[0]).front(), ' ');
}

TEST(TokenizerKinds, ThreadsShareATokenizer) {
  const auto texts = expected().at("texts").get<std::vector<std::string>>();
  for (const char* name : {"llama_style.model", "o200k_small.tiktoken"}) {
    const auto tokenizer = load(name);
    std::vector<Ids> want;
    for (const std::string& text : texts) want.push_back(tokenizer->encode(text));
    std::vector<std::jthread> threads;
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back([&] {
        for (std::size_t i = 0; i < texts.size(); ++i)
          EXPECT_EQ(tokenizer->encode(texts[i]), want[i]);
      });
    }
  }
}

TEST(TokenizerKinds, KnownByTheirFiles) {
  TempDir dir;
  const auto bytes = data_testing::read_file(kFolder + "llama3_small.tiktoken");
  data_testing::write_file(dir / "llama3_tokenizer.model", bytes);
  data_testing::write_file(dir / "mine.tiktoken", bytes);
  EXPECT_TRUE(load_tokenizer("", dir / "llama3_tokenizer.model")->token_to_id("<|eot_id|>"));
  EXPECT_THAT(error_of([&] { load_tokenizer("SPMTokenizer", dir / "llama3_tokenizer.model"); }),
              HasSubstr("use TiktokenTokenizer"));
  EXPECT_THAT(
      error_of([&] { load_tokenizer("", dir / "mine.tiktoken"); }),
      AllOf(HasSubstr("does not say how it cuts words"), HasSubstr("cl100k (100256 tokens)")));
  EXPECT_THAT(error_of([&] { load_tokenizer("TiktokenTokenizer", ""); }),
              HasSubstr("set vocab_file"));
  EXPECT_THAT(error_of([&] { load_tokenizer("SPMTokenizer", "a", "b"); }),
              HasSubstr("takes no merge_file"));
  EXPECT_THAT(error_of([&] { load_tokenizer("SPMTokenizer", dir / "none.model"); }),
              HasSubstr("none.model"));
}

TEST(TokenizerKinds, DamagedFilesNeverCrash) {
  TempDir dir;
  for (const auto& file : expected().at("files")) {
    const std::string name = file.at("file");
    const std::string bytes = data_testing::read_file(kFolder + name);
    for (std::size_t round = 0; round < 24; ++round) {
      std::string damaged = bytes;
      const std::size_t at = (round * 7919 + 13) * 31 % damaged.size();
      if (round % 2 == 0) {
        damaged.resize(at);
      } else {
        damaged[at] = static_cast<char>(damaged[at] ^ (1 << round % 8));
      }
      data_testing::write_file(dir / name, damaged);
      const std::string error = error_of([&] {
        const auto tokenizer = load_tokenizer("", dir / name);
        tokenizer->decode(tokenizer->encode("Hello, world 123"));
      });
      EXPECT_TRUE(error.empty() || error.size() > 10) << error;
    }
  }
  const auto tiktoken = [&](const std::string& text) {
    data_testing::write_file(dir / "cl100k.tiktoken", text);
    return error_of([&] { load_tokenizer("TiktokenTokenizer", dir / "cl100k.tiktoken"); });
  };
  EXPECT_THAT(tiktoken("IQ== 0\nIQ= 1\n"), HasSubstr("cl100k.tiktoken:2: expected the base64"));
  EXPECT_THAT(tiktoken("IQ== 0\nIg== x\n"), HasSubstr(":2: expected the base64"));
  EXPECT_THAT(tiktoken("IQ== 0\nIg== 0\n"), HasSubstr("the rank 0 is given twice"));
  EXPECT_THAT(tiktoken("IQ== 0\nIg== 2\n"), HasSubstr("no token has rank 1"));
  EXPECT_THAT(tiktoken("IQ== 0\nIQ== 1\n"), HasSubstr("have the same token"));
  EXPECT_THAT(tiktoken("IQ== 0\n"), HasSubstr("byte 0x00 is no token"));
  EXPECT_THAT(tiktoken("IQ== 99999999\n"), HasSubstr("beyond any vocabulary"));
}

}  // namespace
}  // namespace neox
