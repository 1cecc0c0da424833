// Tokenizers made of small files written here.
#include "io/tokenizer/tokenizer.h"

#include <filesystem>
#include <fstream>
#include <random>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <unicode/normalizer2.h>

#include "core/base/error.h"
#include "io/tokenizer/bpe_trainer.h"
#include "io/tokenizer/byte_alphabet.h"
#include "tests/io/random_text.h"

namespace neox {
namespace {

using Json = nlohmann::json;
using Ids = std::vector<std::int32_t>;
using ::testing::HasSubstr;

Json byte_level(bool use_regex = true, bool add_prefix_space = false) {
  return {{"type", "ByteLevel"},
          {"add_prefix_space", add_prefix_space},
          {"trim_offsets", true},
          {"use_regex", use_regex}};
}

Json added(int id, const std::string& content) {
  return {{"id", id},        {"content", content},  {"single_word", false}, {"lstrip", false},
          {"rstrip", false}, {"normalized", false}, {"special", true}};
}

// 256 bytes (id = byte), then "he" 256, "ll" 257, "hell" 258, "hello" 259, " hello" 260, "12" 261;
// <|endoftext|> 262.
Json small() {
  Json vocab = Json::object();
  for (int byte = 0; byte < 256; ++byte) {
    vocab[byte_characters()[static_cast<std::size_t>(byte)]] = byte;
  }
  int next = 256;
  for (const char* token : {"he", "ll", "hell", "hello", "Ġhello", "12"}) vocab[token] = next++;
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", Json::array({added(262, "<|endoftext|>")})},
          {"normalizer", nullptr},
          {"pre_tokenizer", byte_level()},
          {"post_processor", byte_level()},
          {"decoder", byte_level()},
          {"model",
           {{"type", "BPE"},
            {"vocab", vocab},
            {"merges", {"h e", "l l", "he ll", "hell o", "Ġ hello", "1 2"}}}}};
}

class TokenizerTest : public ::testing::Test {
 protected:
  TokenizerTest() { std::filesystem::create_directories(folder_); }
  ~TokenizerTest() override { std::filesystem::remove_all(folder_); }

  std::string write(const std::string& name, const std::string& text) const {
    std::ofstream(folder_ + name, std::ios::binary) << text;
    return folder_ + name;
  }
  std::unique_ptr<Tokenizer> load(const Json& json) const {
    return load_tokenizer("HFTokenizer", write("tokenizer.json", json.dump()));
  }
  std::string error_of(const std::string& text) const {
    try {
      load_tokenizer("HFTokenizer", write("tokenizer.json", text));
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  }

  const std::string folder_ = ::testing::TempDir() + "neox_tokenizer_test/";
};

TEST_F(TokenizerTest, EncodesAndDecodes) {
  const auto tokenizer = load(small());
  EXPECT_EQ(tokenizer->vocab_size(), 263);
  EXPECT_EQ(tokenizer->eod_id(), 262);
  EXPECT_EQ(tokenizer->encode("hello hello"), (Ids{259, 260}));
  EXPECT_EQ(tokenizer->encode("hell12<|endoftext|>he"), (Ids{258, 261, 262, 256}));
  EXPECT_EQ(tokenizer->encode(""), Ids{});
  EXPECT_EQ(tokenizer->decode(Ids{259, 260, 262}), "hello hello<|endoftext|>");
  EXPECT_EQ(tokenizer->id_to_bytes(260), " hello");
  EXPECT_EQ(tokenizer->id_to_bytes(0xE6), "\xE6");
  EXPECT_THROW(tokenizer->id_to_bytes(263), Error);
  EXPECT_THROW(tokenizer->id_to_bytes(-1), Error);
  EXPECT_EQ(tokenizer->token_to_id("Ġhello"), 260);
  EXPECT_EQ(tokenizer->token_to_id("nothing"), std::nullopt);
}

TEST_F(TokenizerTest, RefusesInvalidUtf8AndAppendsNothing) {
  const auto tokenizer = load(small());
  Ids ids{7};
  try {
    tokenizer->encode("hello \xFF", ids);
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("0xFF at offset 6"));
  }
  EXPECT_EQ(ids, Ids{7});
}

TEST_F(TokenizerTest, LowestRankFirstLeftmostFirst) {
  Json json = small();
  json["model"]["merges"] = {"l l", "h e"};
  const auto tokenizer = load(json);
  EXPECT_EQ(tokenizer->encode("lll"), (Ids{257, 'l'}));
  EXPECT_EQ(tokenizer->encode("hello"), (Ids{256, 257, 'o'}));
}

TEST_F(TokenizerTest, LongWordsEqualShortOnes) {
  const auto tokenizer = load(small());
  std::string word;
  Ids want;
  for (int i = 0; i < 3000; ++i) {
    word += "hello";
    want.push_back(259);
  }
  EXPECT_EQ(tokenizer->encode(word), want);
  EXPECT_EQ(tokenizer->encode(word), want);
}

TEST_F(TokenizerTest, AddedTokenRules) {
  Json json = small();
  Json strip = added(263, "<m>"), word = added(264, "cat"), longer = added(265, "<m>>");
  strip["lstrip"] = strip["rstrip"] = true;
  word["single_word"] = true;
  json["added_tokens"].insert(json["added_tokens"].end(), {strip, word, longer});
  const auto tokenizer = load(json);
  EXPECT_EQ(tokenizer->encode("1 \n<m>\t 2"), (Ids{'1', 263, '2'}));
  EXPECT_EQ(tokenizer->encode("<m>>"), Ids{265});
  EXPECT_EQ(tokenizer->encode("cat"), Ids{264});
  EXPECT_EQ(tokenizer->encode("cats"), (Ids{'c', 'a', 't', 's'}));
  EXPECT_EQ(tokenizer->decode(Ids{264, 265}), "cat<m>>");
}

TEST_F(TokenizerTest, NormalizedAddedTokensMatchTheNormalizedText) {
  Json json = small();
  json["normalizer"] = {{"type", "Lowercase"}};
  Json token = added(263, "HI");
  token["normalized"] = true;
  json["added_tokens"].push_back(token);
  const auto tokenizer = load(json);
  EXPECT_EQ(tokenizer->encode("HELLO Hi"), (Ids{259, ' ', 263}));
}

TEST_F(TokenizerTest, PreTokenizers) {
  Json json = small();
  json["pre_tokenizer"] = byte_level(true, true);
  EXPECT_EQ(load(json)->encode("hello"), Ids{260});
  json["pre_tokenizer"] = byte_level(false);
  json["model"]["merges"].push_back("hello Ġhello");
  json["model"]["vocab"]["helloĠhello"] = 263;
  EXPECT_EQ(load(json)->encode("hello hello"), Ids{263});
  json["pre_tokenizer"] = {
      {"type", "Sequence"},
      {"pretokenizers",
       {{{"type", "Split"}, {"pattern", {{"Regex", "\\p{N}"}}}, {"behavior", "Isolated"}},
        byte_level(false)}}};
  EXPECT_EQ(load(json)->encode("hello12hello hello"), (Ids{259, '1', '2', 263}));
  json["pre_tokenizer"]["pretokenizers"][0]["behavior"] = "Removed";
  EXPECT_EQ(load(json)->encode("hello12hello"), (Ids{259, 259}));
  json["pre_tokenizer"]["pretokenizers"][0] = {{"type", "Split"},
                                               {"pattern", {{"String", "."}}},
                                               {"behavior", "MergedWithPrevious"},
                                               {"invert", false}};
  EXPECT_EQ(load(json)->encode("1.12"), (Ids{'1', '.', 261}));
}

TEST_F(TokenizerTest, IgnoreMergesTakesWholeWords) {
  Json json = small();
  json["model"]["vocab"]["lo"] = 263;  // a token that no merge makes
  EXPECT_EQ(load(json)->encode("lo"), (Ids{'l', 'o'}));
  json["model"]["ignore_merges"] = true;
  EXPECT_EQ(load(json)->encode("lo"), Ids{263});
}

TEST_F(TokenizerTest, TemplatesGiveWhatIsPutAroundATexts) {
  Json json = small();
  json["post_processor"] = {
      {"type", "TemplateProcessing"},
      {"single",
       {{{"SpecialToken", {{"id", "<|endoftext|>"}, {"type_id", 0}}}},
        {{"Sequence", {{"id", "A"}, {"type_id", 0}}}}}},
      {"special_tokens", {{"<|endoftext|>", {{"id", "<|endoftext|>"}, {"ids", {262}}}}}}};
  const auto tokenizer = load(json);
  ASSERT_EQ(tokenizer->prefix_ids().size(), 1u);
  EXPECT_EQ(tokenizer->prefix_ids()[0], 262);
  EXPECT_TRUE(tokenizer->suffix_ids().empty());
  EXPECT_EQ(tokenizer->encode("hello"), Ids{259});
}

TEST_F(TokenizerTest, BytesMissingFromTheVocabulary) {
  Json json = small();
  json["model"]["vocab"].erase("z");
  const auto tokenizer = load(json);
  EXPECT_EQ(tokenizer->encode("hello"), Ids{259});
  EXPECT_THROW(tokenizer->encode("z"), Error);
  json["model"]["unk_token"] = "12";
  EXPECT_EQ(load(json)->encode("z"), Ids{261});
}

TEST_F(TokenizerTest, RoundTripOfArbitraryText) {
  Json nfc = small();
  nfc["normalizer"] = {{"type", "NFC"}};
  const auto plain = load(small()), normalizing = load(nfc);
  UErrorCode status = U_ZERO_ERROR;
  const auto* form = icu::Normalizer2::getNFCInstance(status);
  ASSERT_TRUE(U_SUCCESS(status));
  std::mt19937 random(2);
  for (int i = 0; i < 5000; ++i) {
    const std::string text = random_text(random, 60);
    ASSERT_EQ(plain->decode(plain->encode(text)), text);
    // Special tokens are cut out first: they separate what would compose.
    if (text.find("<|endoftext|>") != std::string::npos) continue;
    std::string want;
    form->normalize(icu::UnicodeString::fromUTF8(text), status).toUTF8String(want);
    ASSERT_EQ(normalizing->decode(normalizing->encode(text)), want);
  }
}

TEST_F(TokenizerTest, ThreadsShareATokenizer) {
  const auto tokenizer = load(small());
  std::mt19937 random(3);
  std::vector<std::string> texts;
  std::vector<Ids> want;
  for (int i = 0; i < 200; ++i) {
    texts.push_back(random_text(random, 200));
    want.push_back(tokenizer->encode(texts.back()));
  }
  std::vector<std::thread> threads;
  std::vector<int> wrong(4);
  for (std::size_t t = 0; t < wrong.size(); ++t) {
    threads.emplace_back([&, t] {
      for (std::size_t i = 0; i < texts.size(); ++i)
        wrong[t] += tokenizer->encode(texts[i]) != want[i];
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_THAT(wrong, ::testing::Each(0));
}

TEST_F(TokenizerTest, CharLevel) {
  const auto tokenizer = load_tokenizer("", "");
  EXPECT_EQ(tokenizer->vocab_size(), 512);
  EXPECT_EQ(tokenizer->eod_id(), 0);
  EXPECT_EQ(tokenizer->encode("aé"), (Ids{'a', 0xC3, 0xA9}));
  EXPECT_EQ(tokenizer->decode(Ids{'a', 0xC3, 0xA9, 300}), "aé");
  EXPECT_THROW(tokenizer->encode("\xFF"), Error);
}

TEST_F(TokenizerTest, VocabAndMerges) {
  const Json json = small();
  Json vocab = json["model"]["vocab"];
  vocab["<|endoftext|>"] = 262;
  std::string merges = "#version: 0.2\n";
  for (const Json& merge : json["model"]["merges"]) merges += merge.get<std::string>() + "\r\n";
  const std::string vocab_file = write("vocab.json", vocab.dump());
  const auto tokenizer = load_tokenizer("", vocab_file, write("merges.txt", merges));
  EXPECT_EQ(tokenizer->encode("hello hello<|endoftext|>"), (Ids{259, 260, 262}));
  EXPECT_THROW(load_tokenizer("", vocab_file, write("merges.txt", "h e l\n")), Error);
  EXPECT_THROW(load_tokenizer("", vocab_file, write("merges.txt", "q q\n")), Error);
  EXPECT_THROW(load_tokenizer("", vocab_file), Error);
  EXPECT_THROW(load_tokenizer("", folder_ + "absent.json"), Error);
  EXPECT_THROW(load_tokenizer("", folder_), Error);
  EXPECT_THROW(load_tokenizer("SPMTokenizer", vocab_file), Error);
}

struct BadCase {
  const char* pointer;  // where the value below replaces that of the small tokenizer
  Json value;
  const char* message;
};

TEST_F(TokenizerTest, RefusesWhatItCannotDo) {
  const std::vector<BadCase> cases = {
      {"/model/type", "Unigram", "'Unigram'"},
      {"/model/vocab", nullptr, "model.vocab: expected an object"},
      {"/model/vocab/he", -3, "not a token id"},
      {"/model/vocab/he", "x", "expected a token id"},
      {"/model/vocab/he", 2000000000, "2000000000"},
      {"/model/vocab/he", 1, "same id 1"},
      {"/model/merges", "h e", "expected a list"},
      {"/model/merges/2", "he  ll", "merges[2]"},
      {"/model/merges/2", Json{"he", 3}, "merges[2]"},
      {"/model/merges/2", "x y", "'xy'"},
      {"/model/dropout", 0.1, "dropout"},
      {"/model/end_of_word_suffix", "</w>", "end_of_word_suffix"},
      {"/pre_tokenizer", nullptr, "byte-level"},
      {"/pre_tokenizer/type", "Metaspace", "'Metaspace'"},
      {"/pre_tokenizer/type", 3, "expected a string"},
      {"/pre_tokenizer",
       {{"type", "Split"}, {"pattern", {{"Regex", "("}}}, {"behavior", "Isolated"}},
       "'('"},
      {"/pre_tokenizer", {{"type", "Digits"}, {"individual_digits", true}}, "no ByteLevel"},
      {"/normalizer", {{"type", "BertNormalizer"}}, "'BertNormalizer'"},
      {"/decoder/type", "WordPiece", "'WordPiece'"},
      {"/post_processor", {{"type", "Unknown"}}, "'Unknown'"},
      {"/truncation", {{"max_length", 3}}, "truncation"},
      {"/padding", {{"strategy", {{"Fixed", 3}}}}, "padding"},
      {"/added_tokens/0/id", 5, "has id 5"},
      {"/added_tokens/0/content", "he", "has id 262 here and 256"},
      {"/added_tokens", 3, "expected a list"},
      {"/model", nullptr, "no 'model'"},
  };
  for (const BadCase& bad : cases) {
    Json json = small();
    json[Json::json_pointer(bad.pointer)] = bad.value;
    const std::string message = error_of(json.dump());
    EXPECT_THAT(message, HasSubstr(bad.message)) << bad.pointer;
    EXPECT_THAT(message, HasSubstr("tokenizer.json")) << bad.pointer;
  }
  EXPECT_THAT(error_of("{\"model\": "), HasSubstr("not valid JSON"));
  EXPECT_THAT(error_of(""), HasSubstr("is empty"));
  EXPECT_THAT(error_of("[1]"), HasSubstr("no 'model'"));
}

TEST_F(TokenizerTest, DamagedFilesNeverCrash) {
  const std::string good = small().dump();
  std::mt19937 random(4);
  const auto below = [&](std::size_t n) { return random() % n; };
  int loaded = 0;
  for (int i = 0; i < 2000; ++i) {
    std::string bad = good;
    for (std::size_t k = 0; k <= below(3); ++k) {
      const std::size_t at = below(bad.size());
      switch (below(4)) {
        case 0:
          bad[at] = static_cast<char>(below(256));
          break;
        case 1:
          bad.erase(at, 1 + below(20));
          break;
        case 2:
          bad.resize(at + 1);
          break;
        default:
          bad.insert(at, bad, below(bad.size()), 1 + below(30));
      }
    }
    try {
      const auto tokenizer = load_tokenizer("HFTokenizer", write("bad.json", bad));
      tokenizer->encode("hello <|endoftext|> 12 \xC3\xA9 world");
      ++loaded;
    } catch (const Error&) {
    }
  }
  EXPECT_LT(loaded, 2000);
}

WordCounts words_of(const std::string& text) {
  WordCounts words;
  words.add_text(text);
  return words;
}

TEST(BpeTrainer, MergesTheMostFrequentPairTiesToTheSmallestIds) {
  BpeTrainerOptions options;
  options.vocab_size = 100;
  options.all_bytes = false;
  options.special_tokens = {};
  options.min_frequency = 2;
  // Words: "low" x3, "er", " low" x2: (l,o) 5, (o,w) 5, then (lo,w) 5, then (Ġ,low) 2.
  const TrainedBpe bpe = train_bpe(words_of("low\nlow\nlow\ner\n low low"), options);
  std::vector<std::string> learned;
  for (const auto& [left, right] : bpe.merges) {
    learned.push_back(bpe.tokens[static_cast<std::size_t>(left)] + "+" +
                      bpe.tokens[static_cast<std::size_t>(right)]);
  }
  EXPECT_THAT(learned, ::testing::ElementsAre("l+o", "lo+w", "Ġ+low"));
}

TEST(BpeTrainer, CountsOverlappingPairs) {
  BpeTrainerOptions options;
  options.vocab_size = 259;
  const TrainedBpe bpe = train_bpe(words_of("aaaaa aaaaa"), options);
  ASSERT_EQ(bpe.merges.size(), 2u);
  EXPECT_EQ(bpe.tokens[257], "aa");
  EXPECT_EQ(bpe.tokens[258], "aaa");  // (aa, a) and (aa, aa) occur twice each
}

TEST(BpeTrainer, NeedsRoomForTheBytes) {
  BpeTrainerOptions options;
  options.vocab_size = 200;
  EXPECT_THROW(train_bpe(words_of("abc"), options), Error);
  options.vocab_size = 300;
  options.special_tokens = {"<x>", "<x>"};
  EXPECT_THROW(train_bpe(words_of("abc"), options), Error);
}

// The pair counts are kept up to date incrementally: against counting from scratch.
TEST(BpeTrainer, EqualsCountingFromScratch) {
  std::mt19937 random(5);
  for (int round = 0; round < 20; ++round) {
    WordCounts words;
    std::vector<std::pair<Ids, std::int64_t>> plain;
    for (int i = 0; i < 60; ++i) {
      std::string word;
      const auto length = 1 + random() % 9;
      for (std::size_t k = 0; k < length; ++k)
        word.push_back(static_cast<char>('a' + random() % 3));
      const auto count = static_cast<std::int64_t>(1 + random() % 4);
      words.add(word, count);
      Ids ids;
      for (const char c : word) ids.push_back(c - 'a');
      plain.emplace_back(ids, count);
    }
    BpeTrainerOptions options;
    options.vocab_size = 40;
    options.all_bytes = false;
    options.special_tokens = {};
    const TrainedBpe bpe = train_bpe(words, options);
    std::vector<std::string> tokens(bpe.tokens.begin(), bpe.tokens.begin() + 3);
    for (const auto& merge : bpe.merges) {
      std::map<std::pair<std::int32_t, std::int32_t>, std::int64_t> counts;
      for (const auto& [ids, count] : plain) {
        for (std::size_t i = 0; i + 1 < ids.size(); ++i) counts[{ids[i], ids[i + 1]}] += count;
      }
      auto best = counts.begin();
      for (auto it = counts.begin(); it != counts.end(); ++it) {
        if (it->second > best->second) best = it;
      }
      ASSERT_EQ(merge, best->first);
      const std::string token = tokens[static_cast<std::size_t>(merge.first)] +
                                tokens[static_cast<std::size_t>(merge.second)];
      auto known = std::find(tokens.begin(), tokens.end(), token);
      if (known == tokens.end()) known = tokens.insert(tokens.end(), token);
      const auto id = static_cast<std::int32_t>(known - tokens.begin());
      for (auto& [ids, count] : plain) {
        Ids merged;
        for (std::size_t i = 0; i < ids.size(); ++i) {
          const bool hit =
              i + 1 < ids.size() && ids[i] == merge.first && ids[i + 1] == merge.second;
          merged.push_back(hit ? id : ids[i]);
          i += hit ? 1 : 0;
        }
        ids = merged;
      }
    }
    EXPECT_EQ(bpe.tokens, tokens);
  }
}

TEST_F(TokenizerTest, ATrainedTokenizerLoads) {
  BpeTrainerOptions options;
  options.vocab_size = 300;
  options.special_tokens = {"<|endoftext|>", "<|padding|>"};
  const std::string text = "the quick brown fox jumps over the lazy dog and the other fox\n";
  const TrainedBpe bpe = train_bpe(words_of(text), options);
  write_tokenizer_json(bpe, folder_ + "trained.json");
  const auto tokenizer = load_tokenizer("", folder_ + "trained.json");
  EXPECT_EQ(tokenizer->vocab_size(), static_cast<std::int64_t>(bpe.tokens.size()));
  EXPECT_EQ(tokenizer->eod_id(), 0);
  EXPECT_LT(tokenizer->encode(text).size(), text.size() * 2 / 3);
  EXPECT_EQ(tokenizer->decode(tokenizer->encode(text + "日本")), text + "日本");
  EXPECT_EQ(tokenizer->encode("<|padding|>"), Ids{1});
}

}  // namespace
}  // namespace neox
