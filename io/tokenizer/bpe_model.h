#pragma once
// Byte-pair encoding of one word: its bytes become tokens, then the adjacent pair of the lowest
// rank is merged (leftmost first) until no pair is in the table (Sennrich et al. 2016).

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "io/tokenizer/merge_table.h"
#include "io/tokenizer/word_cache.h"

namespace neox {

class BpeModel {
 public:
  /// What one thread needs besides the model.
  struct Scratch {
    ShortWordCache short_words;
    LongWordCache long_words;
    IdBuffer ids;
    struct Symbol {
      std::int32_t id;
      std::int32_t previous, next;  // -1: none
    };
    struct Candidate {
      std::uint32_t rank;
      std::int32_t at;
      std::int32_t result;
    };
    std::vector<Symbol> symbols;
    std::vector<Candidate> heap;
    std::vector<std::int32_t> word;
  };

  /// byte_ids[b] is the token of byte b, -1 when the vocabulary lacks it. `whole_words` are looked
  /// up before merging (ignore_merges); empty: none.
  BpeModel(const std::array<std::int32_t, 256>& byte_ids, const std::vector<Merge>& merges,
           std::unordered_map<std::string, std::int32_t> whole_words);

  /// Appends the ids of the word [begin, end) to scratch.ids. `limit` is the end of the memory the
  /// word lies in. Throws Error when the vocabulary lacks one of its bytes.
  void encode_word(const char* begin, const char* end, const char* limit, Scratch& scratch) const {
    const auto length = static_cast<std::size_t>(end - begin);
    if (length <= ShortWordCache::kMaxBytes) [[likely]] {
      const auto key = ShortWordCache::key_of(begin, length, limit);
      const std::size_t known = scratch.short_words.find(key, scratch.ids.next());
      if (known != 0) [[likely]] {
        scratch.ids.advance(known);
        return;
      }
    }
    encode_new_word({begin, length}, scratch);
  }

 private:
  void encode_new_word(std::string_view word, Scratch& scratch) const;
  // Leaves the ids in scratch.word.
  void merge_word(std::string_view word, Scratch& scratch) const;
  void merge_short(Scratch& scratch) const;
  void merge_long(Scratch& scratch) const;

  std::array<std::int32_t, 256> byte_ids_;
  MergeTable merges_;
  std::unordered_map<std::string, std::int32_t> whole_words_;
};

}  // namespace neox
