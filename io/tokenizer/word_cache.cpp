#include "io/tokenizer/word_cache.h"

namespace neox {

std::uint64_t LongWordCache::hash(std::string_view word) {
  std::uint64_t h = word.size();
  const auto mix = [&h](std::uint64_t part) {
    h = (h ^ part) * 0x9E3779B97F4A7C15u;
    h ^= h >> 29;
  };
  std::size_t i = 0;
  std::uint64_t part;
  for (; i + 8 <= word.size(); i += 8) {
    std::memcpy(&part, word.data() + i, 8);
    mix(part);
  }
  part = 0;
  if (i < word.size()) std::memcpy(&part, word.data() + i, word.size() - i);
  mix(part);
  return h * 0xD6E8FEB86659FD93u;
}

std::span<const std::int32_t> LongWordCache::find(std::string_view word, std::uint64_t hash) const {
  const Slot& slot = slots_[hash >> (64 - kSlotBits)];
  if (slot.hash != hash || slot.num_bytes != word.size() ||
      std::memcmp(bytes_.data() + slot.bytes_at, word.data(), word.size()) != 0) {
    return {};
  }
  return {ids_.data() + slot.ids_at, slot.num_ids};
}

void LongWordCache::insert(std::string_view word, std::uint64_t hash,
                           std::span<const std::int32_t> ids) {
  if (bytes_.size() + word.size() > kMaxArenaBytes ||
      (ids_.size() + ids.size()) * sizeof(std::int32_t) > kMaxArenaBytes) {
    slots_.assign(slots_.size(), Slot{});
    bytes_.clear();
    ids_.clear();
  }
  slots_[hash >> (64 - kSlotBits)] = {
      hash, static_cast<std::uint32_t>(bytes_.size()), static_cast<std::uint32_t>(ids_.size()),
      static_cast<std::uint16_t>(word.size()), static_cast<std::uint16_t>(ids.size())};
  bytes_.insert(bytes_.end(), word.begin(), word.end());
  ids_.insert(ids_.end(), ids.begin(), ids.end());
}

}  // namespace neox
