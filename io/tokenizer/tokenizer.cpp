#include "io/tokenizer/tokenizer.h"

#include <array>

#include "core/base/error.h"
#include "io/tokenizer/bpe_tokenizer.h"
#include "io/tokenizer/sentencepiece_tokenizer.h"
#include "io/tokenizer/tokenizer_files.h"
#include "io/tokenizer/utf8.h"

namespace neox {
namespace {

// GPT-NeoX's CharLevelTokenizer: a text's ids are its bytes.
class CharLevelTokenizer : public Tokenizer {
 public:
  CharLevelTokenizer() {
    for (std::size_t i = 0; i < bytes_.size(); ++i) bytes_[i] = static_cast<char>(i);
  }

  using Tokenizer::encode;
  void encode(std::string_view utf8, std::vector<std::int32_t>& ids) const override {
    const std::size_t invalid = find_invalid_utf8(utf8);
    require(invalid == std::string_view::npos, "the text is not valid UTF-8 at byte offset {}",
            invalid);
    for (const char c : utf8) ids.push_back(static_cast<unsigned char>(c));
  }
  // Ids 256 … 511 are never made; they have no bytes.
  std::string_view id_to_bytes(std::int32_t id) const override {
    require(id >= 0 && id < kVocabSize, "token id {} is not among CharLevelTokenizer's {}", id,
            kVocabSize);
    const auto at = static_cast<std::size_t>(id);
    return at < bytes_.size() ? std::string_view(&bytes_[at], 1) : std::string_view();
  }
  std::int64_t vocab_size() const override { return kVocabSize; }
  std::optional<std::int32_t> token_to_id(std::string_view token) const override {
    if (token.size() != 1) return std::nullopt;
    return static_cast<unsigned char>(token[0]);
  }
  std::optional<std::int32_t> eod_id() const override { return 0; }

 private:
  static constexpr std::int32_t kVocabSize = 512;
  std::array<char, 256> bytes_;
};

std::string detect_type(const std::string& vocab_file, const std::string& merge_file) {
  if (!merge_file.empty()) return "GPT2BPETokenizer";
  if (vocab_file.ends_with(".tiktoken")) return "TiktokenTokenizer";
  if (vocab_file.ends_with(".model")) {  // Llama 3's is a .tiktoken file by that name
    return is_tiktoken(read_tokenizer_file(vocab_file)) ? "TiktokenTokenizer" : "SPMTokenizer";
  }
  return vocab_file.empty() ? "CharLevelTokenizer" : "HFTokenizer";
}

// Kinds that are one file.
std::unique_ptr<Tokenizer> load_single_file(const std::string& kind, const std::string& vocab_file,
                                            const std::string& merge_file) {
  const bool sentencepiece = kind == "SPMTokenizer";
  require(!vocab_file.empty(), "{} needs a {} file: set vocab_file", kind,
          sentencepiece ? ".model" : ".tiktoken");
  require(merge_file.empty(), "{} takes no merge_file, but '{}' was given", kind, merge_file);
  if (!sentencepiece) return std::make_unique<BpeTokenizer>(read_tiktoken_file(vocab_file));
  require(!is_tiktoken(read_tokenizer_file(vocab_file)),
          "{} is a .tiktoken file: use TiktokenTokenizer", vocab_file);
  return std::make_unique<SentencePieceTokenizer>(vocab_file);
}

}  // namespace

std::vector<std::int32_t> Tokenizer::encode(std::string_view utf8) const {
  std::vector<std::int32_t> ids;
  encode(utf8, ids);
  return ids;
}

std::string Tokenizer::decode(std::span<const std::int32_t> ids) const {
  std::string text;
  for (const std::int32_t id : ids) text += id_to_bytes(id);
  return text;
}

std::unique_ptr<Tokenizer> load_tokenizer(const std::string& type, const std::string& vocab_file,
                                          const std::string& merge_file) {
  const std::string kind = type.empty() ? detect_type(vocab_file, merge_file) : type;
  if (kind == "CharLevelTokenizer") {
    require(vocab_file.empty() && merge_file.empty(),
            "CharLevelTokenizer takes no vocabulary, but '{}' was given",
            vocab_file.empty() ? merge_file : vocab_file);
    return std::make_unique<CharLevelTokenizer>();
  }
  if (kind == "HFTokenizer") {
    require(!vocab_file.empty(), "HFTokenizer needs a tokenizer.json: set vocab_file");
    require(merge_file.empty(),
            "HFTokenizer reads its merges from {}; drop merge_file '{}', or use GPT2BPETokenizer",
            vocab_file, merge_file);
    return std::make_unique<BpeTokenizer>(read_tokenizer_json(vocab_file));
  }
  if (kind == "GPT2BPETokenizer") {
    require(!vocab_file.empty() && !merge_file.empty(),
            "GPT2BPETokenizer needs a vocab.json and a merges.txt: set vocab_file and merge_file");
    return std::make_unique<BpeTokenizer>(read_gpt2_files(vocab_file, merge_file));
  }
  if (kind == "SPMTokenizer" || kind == "TiktokenTokenizer") {
    return load_single_file(kind, vocab_file, merge_file);
  }
  fail(
      "unknown tokenizer type '{}': use HFTokenizer, GPT2BPETokenizer, SPMTokenizer, "
      "TiktokenTokenizer or CharLevelTokenizer",
      kind);
}

}  // namespace neox
