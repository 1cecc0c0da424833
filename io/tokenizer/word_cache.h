#pragma once
// Remembers the ids of words seen before: text repeats its words, and merging is what costs. One
// per thread, bounded; a new word simply takes the slot of an old one.

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <vector>

namespace neox {

/// Ids on their way into a vector: appended without a capacity check per id.
class IdBuffer {
 public:
  static constexpr std::size_t kSlack =
      8;  ///< ids that may be written past next() before advance()

  void open(std::vector<std::int32_t>& out) {
    out_ = &out;
    next_ = ids_.data();
  }
  void close() {
    out_->insert(out_->end(), ids_.data(), next_);
    next_ = ids_.data();
  }
  std::int32_t* next() { return next_; }
  void advance(std::size_t count) {
    next_ += count;
    if (next_ > ids_.data() + ids_.size() - kSlack) close();
  }
  void push(std::int32_t id) {
    *next_ = id;
    advance(1);
  }
  void append(std::span<const std::int32_t> ids) {
    for (const std::int32_t id : ids) push(id);
  }

 private:
  std::array<std::int32_t, 2048> ids_;
  std::int32_t* next_ = nullptr;
  std::vector<std::int32_t>* out_ = nullptr;
};

/// Words of up to 15 bytes and 4 ids: half a cache line each, found with two comparisons.
class ShortWordCache {
 public:
  static constexpr std::size_t kMaxBytes = 15;
  static constexpr std::size_t kMaxIds = 4;
  static constexpr std::int32_t kMaxId = (1 << 28) - 1;

  /// A word's bytes as two numbers, its length in the last byte.
  struct Key {
    std::uint64_t low, high;
  };
  /// `limit` is the end of the memory that holds the word.
  static Key key_of(const char* word, std::size_t length, const char* limit) {
    std::array<unsigned char, 16> bytes;
    if (limit - word >= 16) [[likely]] {
      std::memcpy(bytes.data(), word, 16);
    } else {
      bytes.fill(0);
      std::memcpy(bytes.data(), word, length);
    }
    Key key, mask;
    std::memcpy(&key, bytes.data(), 16);
    std::memcpy(&mask, kMasks[length].data(), 16);
    return {key.low & mask.low, (key.high & mask.high) | kMasks.length_bits[length]};
  }

  /// Writes the word's ids at out[0, 4) and returns how many count; 0: not known.
  std::size_t find(const Key& key, std::int32_t* out) const {
    const Slot* slot = &slots_[index_of(key)];
    if (slot->key.low != key.low || slot->key.high != key.high) {
      ++slot;
      if (slot->key.low != key.low || slot->key.high != key.high) return 0;
    }
    std::memcpy(out, slot->ids.data(), sizeof slot->ids);
    const auto first = static_cast<std::uint32_t>(slot->ids[0]);
    out[0] = static_cast<std::int32_t>(first & kMaxId);
    return first >> 28;
  }
  /// The word takes the first of its two slots, what was there the second.
  void insert(const Key& key, std::span<const std::int32_t> ids) {
    Slot* slot = &slots_[index_of(key)];
    slot[1] = slot[0];
    slot->key = key;
    std::memcpy(slot->ids.data(), ids.data(), ids.size_bytes());
    slot->ids[0] |= static_cast<std::int32_t>(ids.size() << 28);
  }

 private:
  static constexpr std::size_t kPairBits = 15;  // two slots, a cache line, for each hash: 2 MiB
  struct alignas(32) Slot {
    Key key{0, 0};
    std::array<std::int32_t, kMaxIds> ids{};  // the count in the upper 4 bits of the first
  };
  struct Masks {
    std::array<std::array<unsigned char, 16>, 16> bytes{};
    std::array<std::uint64_t, 16> length_bits{};
    Masks() {
      for (std::size_t length = 0; length < 16; ++length) {
        for (std::size_t i = 0; i < length; ++i) bytes[length][i] = 0xFF;
        std::array<unsigned char, 8> high{};
        high[7] = static_cast<unsigned char>(length);
        std::memcpy(&length_bits[length], high.data(), 8);
      }
    }
    const std::array<unsigned char, 16>& operator[](std::size_t length) const {
      return bytes[length];
    }
  };
  static const Masks kMasks;

  static std::size_t index_of(const Key& key) {
    std::uint64_t h = key.low * 0x9E3779B97F4A7C15u;
    h ^= h >> 32;
    h = (h ^ key.high) * 0xD6E8FEB86659FD93u;
    return 2 * (h >> (64 - kPairBits));
  }

  std::vector<Slot> slots_ = std::vector<Slot>(std::size_t{2} << kPairBits);
};
inline const ShortWordCache::Masks ShortWordCache::kMasks{};

/// Words that the short cache can't hold, up to kMaxBytes. Their bytes and ids lie in two arenas;
/// when one is full everything is forgotten.
class LongWordCache {
 public:
  static constexpr std::size_t kMaxBytes = 256;

  static std::uint64_t hash(std::string_view word);
  /// Empty when not known.
  std::span<const std::int32_t> find(std::string_view word, std::uint64_t hash) const;
  void insert(std::string_view word, std::uint64_t hash, std::span<const std::int32_t> ids);

 private:
  static constexpr std::size_t kSlotBits = 14;
  static constexpr std::size_t kMaxArenaBytes = std::size_t{1} << 20;
  struct Slot {
    std::uint64_t hash = 0;
    std::uint32_t bytes_at = 0, ids_at = 0;
    std::uint16_t num_bytes = 0, num_ids = 0;
  };

  std::vector<Slot> slots_ = std::vector<Slot>(std::size_t{1} << kSlotBits);
  std::vector<char> bytes_;
  std::vector<std::int32_t> ids_;
};

}  // namespace neox
