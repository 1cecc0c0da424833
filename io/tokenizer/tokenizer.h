#pragma once
// Text to token ids and back.

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace neox {

/// A tokenizer. Immutable after loading; every member may be called from several threads at once.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  /// Appends the ids of a text. The ids are those of Hugging Face's
  /// `encode(text, add_special_tokens=False)`: names of added tokens in the text become those
  /// tokens, nothing is put around it. Throws Error naming the byte offset when the text is not
  /// valid UTF-8.
  virtual void encode(std::string_view utf8, std::vector<std::int32_t>& ids) const = 0;
  std::vector<std::int32_t> encode(std::string_view utf8) const;
  /// The same for a text that goes on where another one ended. Differs only where a tokenizer puts
  /// a space before a text (SentencePiece): not here.
  virtual void encode_continuation(std::string_view utf8, std::vector<std::int32_t>& ids) const {
    encode(utf8, ids);
  }

  /// Bytes of one token: a piece of UTF-8 that may begin or end inside a character. Added tokens
  /// give their text. Valid as long as the tokenizer. Throws Error outside [0, vocab_size()).
  virtual std::string_view id_to_bytes(std::int32_t id) const = 0;
  /// The tokens' bytes joined: what encode() was given (its normal form where the tokenizer has a
  /// normalizer). A sequence cut inside a character is not valid UTF-8: see io/tokenizer/utf8.h.
  virtual std::string decode(std::span<const std::int32_t> ids) const;

  /// Largest id + 1, added tokens included, without padding.
  virtual std::int64_t vocab_size() const = 0;
  /// Id of a token by its text, as the text of a special token is written ("<|endoftext|>").
  virtual std::optional<std::int32_t> token_to_id(std::string_view token) const = 0;
  /// End-of-document token: <|endoftext|>, or else what other families call it; none when the
  /// vocabulary has neither.
  virtual std::optional<std::int32_t> eod_id() const = 0;
  /// Ids that the file's post-processor puts before and after a text (a Llama file's
  /// <|begin_of_text|>); empty for GPT-2, GPT-NeoX and Pythia.
  virtual std::span<const std::int32_t> prefix_ids() const { return {}; }
  virtual std::span<const std::int32_t> suffix_ids() const { return {}; }
};

/// Opens a tokenizer. `type` is
///   "HFTokenizer"        vocab_file: a Hugging Face tokenizer.json with a byte-level BPE
///   "GPT2BPETokenizer"   vocab_file: vocab.json, merge_file: merges.txt
///   "SPMTokenizer"       vocab_file: a SentencePiece model (.model)
///   "TiktokenTokenizer"  vocab_file: a .tiktoken file, or Llama 3's tokenizer.model
///   "CharLevelTokenizer" no files; ids are bytes, 512 tokens, end of document 0, padding 1
///   ""                   whichever of these the given files are
/// Throws Error naming the file and what in it is wrong or not supported.
std::unique_ptr<Tokenizer> load_tokenizer(const std::string& type, const std::string& vocab_file,
                                          const std::string& merge_file = "");

}  // namespace neox
