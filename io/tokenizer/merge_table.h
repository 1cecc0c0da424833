#pragma once
// Pair of tokens -> its rank among the merges and the token it becomes.

#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace neox {

/// One merge.
struct Merge {
  std::int32_t left;
  std::int32_t right;
  std::int32_t result;
  std::int32_t rank = -1;  ///< -1: its place in the list
};

/// Open addressing, at most half full, behind a bitmap: most pairs looked up are not in the table,
/// and the bitmap stays in the nearest caches.
class MergeTable {
 public:
  static constexpr std::uint32_t kNone = 0xFFFFFFFF;
  struct Entry {
    std::uint64_t pair = ~std::uint64_t{0};
    std::uint32_t rank = kNone;
    std::int32_t result = -1;
  };

  /// Of a pair listed twice the later rank counts, as in Hugging Face's loader.
  explicit MergeTable(const std::vector<Merge>& merges) {
    const std::size_t slots = std::bit_ceil(2 * merges.size() + 2);
    entries_.resize(slots);
    filter_.resize(slots / 4 + 1);  // 16 bits a slot
    shift_ = 64 - std::countr_zero(slots);
    for (std::size_t rank = 0; rank < merges.size(); ++rank) {
      const std::uint64_t pair = key(merges[rank].left, merges[rank].right);
      std::size_t slot = home(pair);
      while (entries_[slot].rank != kNone && entries_[slot].pair != pair) slot = next(slot);
      const std::size_t bit = filter_bit(pair);
      filter_[bit >> 6] |= std::uint64_t{1} << (bit & 63);
      const std::uint32_t given = static_cast<std::uint32_t>(
          merges[rank].rank >= 0 ? merges[rank].rank : static_cast<std::int32_t>(rank));
      entries_[slot] = {pair, given, merges[rank].result};
    }
  }

  /// The pair's entry, or one whose rank is kNone.
  const Entry& find(std::int32_t left, std::int32_t right) const {
    static constexpr Entry kMissing{};
    const std::uint64_t pair = key(left, right);
    const std::size_t bit = filter_bit(pair);
    if ((filter_[bit >> 6] >> (bit & 63) & 1) == 0) return kMissing;
    std::size_t slot = home(pair);
    while (entries_[slot].pair != pair && entries_[slot].rank != kNone) slot = next(slot);
    return entries_[slot];
  }

 private:
  static std::uint64_t key(std::int32_t left, std::int32_t right) {
    return std::uint64_t{static_cast<std::uint32_t>(left)} << 32 |
           static_cast<std::uint32_t>(right);
  }
  std::size_t home(std::uint64_t pair) const { return (pair * 0x9E3779B97F4A7C15u) >> shift_; }
  // 16 bits for every slot: of the same hash, four bits more.
  std::size_t filter_bit(std::uint64_t pair) const {
    return (pair * 0x9E3779B97F4A7C15u) >> (shift_ - 4);
  }
  std::size_t next(std::size_t slot) const { return (slot + 1) & (entries_.size() - 1); }

  std::vector<Entry> entries_;
  std::vector<std::uint64_t> filter_;
  int shift_ = 0;
};

}  // namespace neox
