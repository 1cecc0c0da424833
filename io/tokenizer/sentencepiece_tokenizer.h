#pragma once

#include <memory>
#include <string>
#include <vector>

#include "io/tokenizer/added_tokens.h"
#include "io/tokenizer/tokenizer.h"

namespace neox {

/// A SentencePiece model file, by Google's library. Control symbols in a text ("</s>") become those
/// tokens, and the texts between them are encoded one by one, as by Hugging Face's LlamaTokenizer;
/// nothing is put around a text. Whatever the model's normaliser does to white space (such as a
/// space before the first word) it does here too; decode() takes a first space away again, as the
/// library does.
class SentencePieceTokenizer : public Tokenizer {
 public:
  /// Throws Error when the file is not a SentencePiece model.
  explicit SentencePieceTokenizer(const std::string& path);
  ~SentencePieceTokenizer() override;

  using Tokenizer::encode;
  void encode(std::string_view utf8, std::vector<std::int32_t>& ids) const override;
  void encode_continuation(std::string_view utf8, std::vector<std::int32_t>& ids) const override;
  std::string_view id_to_bytes(std::int32_t id) const override;
  std::string decode(std::span<const std::int32_t> ids) const override;
  std::int64_t vocab_size() const override { return static_cast<std::int64_t>(bytes_.size()); }
  std::optional<std::int32_t> token_to_id(std::string_view token) const override;
  std::optional<std::int32_t> eod_id() const override { return eod_id_; }

 private:
  struct Models;  // the library's processors
  void encode_text(std::string_view utf8, bool continues, std::vector<std::int32_t>& ids) const;

  std::string source_;
  std::unique_ptr<const Models> models_;
  std::vector<std::string> bytes_;  // of each token
  AddedTokenMatcher control_;
  bool drops_space_ = false;  // decode(), at the beginning
  std::optional<std::int32_t> eod_id_;
};

}  // namespace neox
