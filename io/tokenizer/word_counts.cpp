#include "io/tokenizer/word_counts.h"

#include "core/base/error.h"
#include "io/tokenizer/gpt2_scanner.h"
#include "io/tokenizer/word_cache.h"

namespace neox {

void WordCounts::add(std::string_view word, std::int64_t count) {
  const std::uint64_t hash = LongWordCache::hash(word);
  const std::size_t mask = slots_.size() - 1;
  std::size_t at = (hash >> 32) & mask;
  for (; slots_[at].count != 0; at = (at + 1) & mask) {
    Slot& slot = slots_[at];
    if (slot.hash == hash && word_of(slot) == word) {
      slot.count += count;
      return;
    }
  }
  require(word.size() < (std::size_t{1} << 31), "a word of {} bytes is too long", word.size());
  slots_[at] = {hash, bytes_.size(), count, static_cast<std::uint32_t>(word.size())};
  bytes_.insert(bytes_.end(), word.begin(), word.end());
  if (++size_ * 2 > slots_.size()) grow();
}

void WordCounts::grow() {
  std::vector<Slot> old(slots_.size() * 2);
  old.swap(slots_);
  const std::size_t mask = slots_.size() - 1;
  for (const Slot& slot : old) {
    if (slot.count == 0) continue;
    std::size_t at = (slot.hash >> 32) & mask;
    while (slots_[at].count != 0) at = (at + 1) & mask;
    slots_[at] = slot;
  }
}

void WordCounts::add_text(std::string_view text) {
  scan_gpt2(text.data(), text.data() + text.size(), [this](const char* begin, const char* end) {
    add({begin, static_cast<std::size_t>(end - begin)});
  });
}

void WordCounts::merge(const WordCounts& other) {
  other.for_each([this](std::string_view word, std::int64_t count) { add(word, count); });
}

}  // namespace neox
