#pragma once
// Learns a byte-level BPE vocabulary (Sennrich et al. 2016), merge for merge what Hugging Face's
// trainer learns.

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "io/tokenizer/word_counts.h"

namespace neox {

struct BpeTrainerOptions {
  std::int64_t vocab_size = 0;  ///< special tokens and bytes included
  /// A pair that occurs less often is not merged.
  std::int64_t min_frequency = 0;
  /// Take ids 0, 1, … in this order.
  std::vector<std::string> special_tokens = {"<|endoftext|>"};
  /// All 256 bytes are tokens, whatever the corpus has, so that any text can be encoded; otherwise
  /// only the corpus's own.
  bool all_bytes = true;
  /// Called now and then with the number of tokens so far.
  std::function<void(std::int64_t tokens)> progress;
};

struct TrainedBpe {
  std::vector<std::string> special_tokens;
  /// All tokens by id, special ones first, bytes written as in byte_alphabet.h.
  std::vector<std::string> tokens;
  std::vector<std::pair<std::int32_t, std::int32_t>> merges;  ///< of ids, in order of learning
};

/// Starts from bytes (ids in the order of their characters' code points) and merges the pair that
/// occurs most, ties to the smallest (left id, right id), until the vocabulary is full or no pair
/// is left. Throws Error when vocab_size has no room for the special tokens and the bytes.
TrainedBpe train_bpe(const WordCounts& words, const BpeTrainerOptions& options);

/// Writes a tokenizer.json (GPT-2's pre-tokenizer) that Hugging Face's library and load_tokenizer()
/// read. The file appears when it is complete.
void write_tokenizer_json(const TrainedBpe& bpe, const std::string& path);

}  // namespace neox
