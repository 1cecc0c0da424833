#pragma once
// How often each word occurs: what BPE training needs of a corpus.

#include <cstdint>
#include <string_view>
#include <vector>

namespace neox {

/// A counting set of words; the words' bytes lie in one arena. Memory grows with the number of
/// different words, not with the text.
class WordCounts {
 public:
  void add(std::string_view word, std::int64_t count = 1);
  /// Cuts valid UTF-8 with GPT-2's pattern and counts the words.
  void add_text(std::string_view text);
  void merge(const WordCounts& other);

  std::int64_t size() const { return static_cast<std::int64_t>(size_); }
  /// Calls f(word, count) for each word, in no order that means anything.
  template <class F>
  void for_each(F&& f) const {
    for (const Slot& slot : slots_) {
      if (slot.count != 0) f(word_of(slot), slot.count);
    }
  }

 private:
  struct Slot {
    std::uint64_t hash = 0;
    std::uint64_t at = 0;
    std::int64_t count = 0;  // 0: free
    std::uint32_t length = 0;
  };
  std::string_view word_of(const Slot& slot) const {
    return {bytes_.data() + slot.at, slot.length};
  }
  void grow();

  std::vector<Slot> slots_ = std::vector<Slot>(1024);
  std::vector<char> bytes_;
  std::size_t size_ = 0;
};

}  // namespace neox
