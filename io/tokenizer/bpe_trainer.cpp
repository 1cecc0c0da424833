#include "io/tokenizer/bpe_trainer.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <queue>
#include <unordered_map>

#include "core/base/error.h"
#include "io/tokenizer/byte_alphabet.h"
#include "io/tokenizer/utf8.h"

namespace neox {
namespace {

// Pairs with their counts and the words they are in: open addressing over dense arrays.
class PairTable {
 public:
  struct Pair {
    std::int32_t left, right;
    std::int64_t count = 0;
    bool queued = false;                 // its count grew in the merge going on
    std::vector<std::uint32_t> words{};  // may name a word that lost the pair, or name it twice
  };

  std::uint32_t index_of(std::int32_t left, std::int32_t right) {
    const std::uint64_t key =
        std::uint64_t{static_cast<std::uint32_t>(left)} << 32 | static_cast<std::uint32_t>(right);
    const std::size_t mask = slots_.size() - 1;
    std::size_t at = (key * 0x9E3779B97F4A7C15u) >> shift_;
    for (; slots_[at] != kFree; at = (at + 1) & mask) {
      if (keys_[at] == key) return slots_[at];
    }
    const auto index = static_cast<std::uint32_t>(pairs_.size());
    slots_[at] = index;
    keys_[at] = key;
    pairs_.push_back({left, right});
    if (2 * pairs_.size() > slots_.size()) grow();
    return index;
  }
  Pair& operator[](std::uint32_t index) { return pairs_[index]; }
  std::size_t size() const { return pairs_.size(); }

 private:
  static constexpr std::uint32_t kFree = 0xFFFFFFFF;

  void grow() {
    std::vector<std::uint32_t> old_slots(2 * slots_.size(), kFree);
    std::vector<std::uint64_t> old_keys(old_slots.size());
    old_slots.swap(slots_);
    old_keys.swap(keys_);
    --shift_;
    for (std::size_t i = 0; i < old_slots.size(); ++i) {
      if (old_slots[i] == kFree) continue;
      std::size_t at = (old_keys[i] * 0x9E3779B97F4A7C15u) >> shift_;
      while (slots_[at] != kFree) at = (at + 1) & (slots_.size() - 1);
      slots_[at] = old_slots[i];
      keys_[at] = old_keys[i];
    }
  }

  int shift_ = 64 - 12;
  std::vector<std::uint32_t> slots_ = std::vector<std::uint32_t>(std::size_t{1} << 12, kFree);
  std::vector<std::uint64_t> keys_ = std::vector<std::uint64_t>(std::size_t{1} << 12);
  std::vector<Pair> pairs_;
};

struct QueueEntry {
  std::int64_t count;  // when it was queued
  std::int32_t left, right;
  std::uint32_t pair;
  bool operator<(const QueueEntry& other) const {  // the largest is merged next
    if (count != other.count) return count < other.count;
    return left != other.left ? left > other.left : right > other.right;
  }
};

class Trainer {
 public:
  Trainer(const WordCounts& words, const BpeTrainerOptions& options) : options_(options) {
    add_special_tokens();
    add_bytes(words);
    load_words(words);
    count_pairs();
  }

  TrainedBpe run() {
    while (static_cast<std::int64_t>(out_.tokens.size()) < options_.vocab_size && merge_next()) {
      if (options_.progress && out_.merges.size() % 256 == 0) {
        options_.progress(static_cast<std::int64_t>(out_.tokens.size()));
      }
    }
    return std::move(out_);
  }

 private:
  struct Word {
    std::uint64_t begin;  // in symbols_
    std::uint32_t length;
    std::int64_t count;
  };

  // The id of a token, which is added when it is new.
  std::int32_t token_id(const std::string& token) {
    const auto [entry, added] = ids_.emplace(token, static_cast<std::int32_t>(out_.tokens.size()));
    if (added) out_.tokens.push_back(token);
    return entry->second;
  }

  void add_special_tokens() {
    for (const std::string& token : options_.special_tokens) {
      require(!token.empty(), "a special token is empty");
      require(find_invalid_utf8(token) == std::string_view::npos,
              "the special token '{}' is not valid UTF-8", to_valid_utf8(token));
      require(!ids_.contains(token), "the special token '{}' is given twice", token);
      token_id(token);
    }
    out_.special_tokens = options_.special_tokens;
  }

  void add_bytes(const WordCounts& words) {
    std::array<bool, 256> used{};
    used.fill(options_.all_bytes);
    words.for_each([&](std::string_view word, std::int64_t) {
      for (const char c : word) used[static_cast<unsigned char>(c)] = true;
    });
    std::vector<std::uint8_t> order(256);
    std::iota(order.begin(), order.end(), std::uint8_t{0});
    std::sort(order.begin(), order.end(), [](std::uint8_t a, std::uint8_t b) {
      return byte_code_point(a) < byte_code_point(b);
    });
    for (const std::uint8_t byte : order) {
      if (used[byte]) byte_ids_[byte] = token_id(byte_characters()[byte]);
    }
    require(
        static_cast<std::int64_t>(out_.tokens.size()) <= options_.vocab_size,
        "a vocabulary of {} has no room for {} special tokens and {} bytes: ask for at least {}",
        options_.vocab_size, options_.special_tokens.size(),
        out_.tokens.size() - options_.special_tokens.size(), out_.tokens.size());
  }

  void load_words(const WordCounts& words) {
    words_.reserve(static_cast<std::size_t>(words.size()));
    words.for_each([&](std::string_view word, std::int64_t count) {
      if (word.size() < 2) return;
      words_.push_back({symbols_.size(), static_cast<std::uint32_t>(word.size()), count});
      for (const char c : word) symbols_.push_back(byte_ids_[static_cast<unsigned char>(c)]);
    });
  }

  void count_pairs() {
    for (std::uint32_t w = 0; w < words_.size(); ++w) {
      const std::int32_t* symbols = symbols_.data() + words_[w].begin;
      for (std::uint32_t i = 0; i + 1 < words_[w].length; ++i) {
        add_occurrence(symbols[i], symbols[i + 1], w);
      }
    }
    queue_grown();
  }

  void add_occurrence(std::int32_t left, std::int32_t right, std::uint32_t word) {
    const std::uint32_t index = pairs_.index_of(left, right);
    PairTable::Pair& pair = pairs_[index];
    pair.count += words_[word].count;
    if (pair.words.empty() || pair.words.back() != word) pair.words.push_back(word);
    if (!pair.queued) {
      pair.queued = true;
      grown_.push_back(index);
    }
  }
  void remove_occurrence(std::int32_t left, std::int32_t right, std::uint32_t word) {
    pairs_[pairs_.index_of(left, right)].count -= words_[word].count;
  }

  void queue_grown() {
    for (const std::uint32_t index : grown_) {
      PairTable::Pair& pair = pairs_[index];
      pair.queued = false;
      if (pair.count > 0) queue_.push({pair.count, pair.left, pair.right, index});
    }
    grown_.clear();
  }

  // Merges the most frequent pair; false when there is none.
  bool merge_next() {
    while (!queue_.empty()) {
      QueueEntry top = queue_.top();
      const std::int64_t count = pairs_[top.pair].count;
      if (count < top.count) {  // fell since it was queued
        queue_.pop();
        top.count = count;
        if (count > 0) queue_.push(top);
      } else if (count > top.count) {  // grew, and was queued again then
        queue_.pop();
      } else {
        if (count < options_.min_frequency) return false;
        queue_.pop();
        merge(top);
        return true;
      }
    }
    return false;
  }

  void merge(const QueueEntry& top) {
    const std::int32_t merged = token_id(out_.tokens[static_cast<std::size_t>(top.left)] +
                                         out_.tokens[static_cast<std::size_t>(top.right)]);
    out_.merges.emplace_back(top.left, top.right);
    std::vector<std::uint32_t> words;
    words.swap(pairs_[top.pair].words);
    for (const std::uint32_t word : words) merge_in_word(word, top.left, top.right, merged);
    queue_grown();
  }

  void merge_in_word(std::uint32_t w, std::int32_t left, std::int32_t right, std::int32_t merged) {
    Word& word = words_[w];
    std::int32_t* symbols = symbols_.data() + word.begin;
    std::uint32_t kept = 0;
    for (std::uint32_t i = 0; i < word.length;) {
      if (symbols[i] != left || i + 1 == word.length || symbols[i + 1] != right) {
        symbols[kept++] = symbols[i++];
        continue;
      }
      remove_occurrence(left, right, w);
      if (kept > 0) {
        remove_occurrence(symbols[kept - 1], left, w);
        add_occurrence(symbols[kept - 1], merged, w);
      }
      if (i + 2 < word.length) {
        remove_occurrence(right, symbols[i + 2], w);
        add_occurrence(merged, symbols[i + 2], w);
      }
      symbols[kept++] = merged;
      i += 2;
    }
    word.length = kept;
  }

  const BpeTrainerOptions& options_;
  TrainedBpe out_;
  std::unordered_map<std::string, std::int32_t> ids_;
  std::array<std::int32_t, 256> byte_ids_{};
  std::vector<Word> words_;
  std::vector<std::int32_t> symbols_;
  PairTable pairs_;
  std::priority_queue<QueueEntry> queue_;
  std::vector<std::uint32_t> grown_;
};

}  // namespace

TrainedBpe train_bpe(const WordCounts& words, const BpeTrainerOptions& options) {
  return Trainer(words, options).run();
}

}  // namespace neox
