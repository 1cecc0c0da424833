#pragma once
// Byte-level BPE with everything around it: added tokens, normalizer, pre-tokenizer, merges.

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "io/tokenizer/added_tokens.h"
#include "io/tokenizer/merge_table.h"
#include "io/tokenizer/normalizer.h"
#include "io/tokenizer/pre_tokenizer.h"
#include "io/tokenizer/tokenizer.h"

namespace neox {

class BpeModel;

/// What a tokenizer's files say.
struct BpeDescription {
  std::string source;  ///< file name, for messages
  /// Tokens by their text as the file writes it (bytes as characters, added tokens plain).
  std::unordered_map<std::string, std::int32_t> vocab;
  std::vector<Merge> merges;
  bool ignore_merges = false;            ///< a word that is a token is that token
  std::optional<std::int32_t> unknown;   ///< stands for bytes without a token
  std::vector<AddedToken> added_tokens;  ///< also in `vocab`
  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  std::vector<std::int32_t> prefix_ids, suffix_ids;
};

class BpeTokenizer : public Tokenizer {
 public:
  explicit BpeTokenizer(BpeDescription description);
  ~BpeTokenizer() override;

  using Tokenizer::encode;
  void encode(std::string_view utf8, std::vector<std::int32_t>& ids) const override;
  std::string_view id_to_bytes(std::int32_t id) const override;
  std::int64_t vocab_size() const override {
    return static_cast<std::int64_t>(token_bytes_.size());
  }
  std::optional<std::int32_t> token_to_id(std::string_view token) const override;
  std::optional<std::int32_t> eod_id() const override { return eod_id_; }
  std::span<const std::int32_t> prefix_ids() const override { return about_.prefix_ids; }
  std::span<const std::int32_t> suffix_ids() const override { return about_.suffix_ids; }

 private:
  struct Scratch;
  class Lease;

  void encode_piece(std::string_view piece, Scratch& scratch) const;
  void split_words(std::string_view piece, const char* limit, Scratch& scratch) const;
  void encode_words(std::string_view piece, const char* limit, Scratch& scratch) const;
  std::array<std::int32_t, 256> byte_ids() const;

  BpeDescription about_;
  std::vector<std::string> token_bytes_;  // by id; empty where the vocabulary has a hole
  std::optional<std::int32_t> eod_id_;
  AddedTokenMatcher raw_added_, normalized_added_;
  std::unique_ptr<const BpeModel> model_;

  mutable std::mutex mutex_;
  mutable std::vector<std::unique_ptr<Scratch>>
      idle_;  // one per thread that was ever inside encode
};

/// Reads a Hugging Face tokenizer.json. Throws Error naming the file and what is wrong in it or not
/// supported.
BpeDescription read_tokenizer_json(const std::string& path);
/// Reads GPT-2's vocab.json and merges.txt.
BpeDescription read_gpt2_files(const std::string& vocab_file, const std::string& merge_file);

}  // namespace neox
