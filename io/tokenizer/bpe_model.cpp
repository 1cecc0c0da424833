#include "io/tokenizer/bpe_model.h"

#include <algorithm>

#include "core/base/error.h"

namespace neox {
namespace {

// Above this length the quadratic search for the lowest rank loses against the heap.
constexpr std::size_t kShortWord = 64;

// std::push_heap keeps the largest on top: the last candidate to be merged is the "smallest".
struct Later {
  bool operator()(const BpeModel::Scratch::Candidate& a,
                  const BpeModel::Scratch::Candidate& b) const {
    return a.rank != b.rank ? a.rank > b.rank : a.at > b.at;
  }
};

}  // namespace

BpeModel::BpeModel(const std::array<std::int32_t, 256>& byte_ids, const std::vector<Merge>& merges,
                   std::unordered_map<std::string, std::int32_t> whole_words)
    : byte_ids_(byte_ids), merges_(merges), whole_words_(std::move(whole_words)) {}

void BpeModel::encode_new_word(std::string_view word, Scratch& scratch) const {
  const bool cacheable = word.size() <= LongWordCache::kMaxBytes;
  const std::uint64_t hash = cacheable ? LongWordCache::hash(word) : 0;
  if (cacheable) {
    const auto known = scratch.long_words.find(word, hash);
    if (!known.empty()) {
      scratch.ids.append(known);
      return;
    }
  }
  merge_word(word, scratch);
  if (word.size() <= ShortWordCache::kMaxBytes && scratch.word.size() <= ShortWordCache::kMaxIds) {
    scratch.short_words.insert(
        ShortWordCache::key_of(word.data(), word.size(), word.data() + word.size()), scratch.word);
  } else if (cacheable) {
    scratch.long_words.insert(word, hash, scratch.word);
  }
  scratch.ids.append(scratch.word);
}

void BpeModel::merge_word(std::string_view word, Scratch& scratch) const {
  scratch.word.clear();
  if (!whole_words_.empty()) {
    const auto whole = whole_words_.find(std::string(word));
    if (whole != whole_words_.end()) {
      scratch.word.push_back(whole->second);
      return;
    }
  }
  for (const char c : word) {
    const auto byte = static_cast<unsigned char>(c);
    require(byte_ids_[byte] >= 0,
            "the text has byte 0x{:02X}, for which the tokenizer's vocabulary has no token: use a "
            "tokenizer with all 256 bytes",
            byte);
    scratch.word.push_back(byte_ids_[byte]);
  }
  if (word.size() < 2) return;
  if (word.size() <= kShortWord) {
    merge_short(scratch);
  } else {
    merge_long(scratch);
  }
}

void BpeModel::merge_short(Scratch& scratch) const {
  struct Pair {
    std::uint32_t rank;
    std::int32_t result;
  };
  std::array<Pair, kShortWord> pairs;  // pairs[i]: tokens i and i + 1
  std::int32_t* ids = scratch.word.data();
  std::size_t count = scratch.word.size();
  const auto look_up = [&](std::size_t i) {
    const MergeTable::Entry& entry = merges_.find(ids[i], ids[i + 1]);
    pairs[i] = {entry.rank, entry.result};
  };
  for (std::size_t i = 0; i + 1 < count; ++i) look_up(i);
  while (count > 1) {
    std::size_t best = 0;
    for (std::size_t i = 1; i + 1 < count; ++i) {
      if (pairs[i].rank < pairs[best].rank) best = i;
    }
    if (pairs[best].rank == MergeTable::kNone) break;
    ids[best] = pairs[best].result;
    --count;
    std::copy(ids + best + 2, ids + count + 1, ids + best + 1);
    if (best + 1 < count) {
      std::copy(pairs.data() + best + 2, pairs.data() + count, pairs.data() + best + 1);
      look_up(best);
    }
    if (best > 0) look_up(best - 1);
  }
  scratch.word.resize(count);
}

void BpeModel::merge_long(Scratch& scratch) const {
  auto& symbols = scratch.symbols;
  auto& heap = scratch.heap;
  const auto count = static_cast<std::int32_t>(scratch.word.size());
  symbols.resize(scratch.word.size());
  for (std::int32_t i = 0; i < count; ++i) {
    symbols[static_cast<std::size_t>(i)] = {scratch.word[static_cast<std::size_t>(i)], i - 1,
                                            i + 1 < count ? i + 1 : -1};
  }
  const auto symbol = [&](std::int32_t i) -> auto& {
    return symbols[static_cast<std::size_t>(i)];
  };
  heap.clear();
  const auto add_pair = [&](std::int32_t i) {
    const MergeTable::Entry& entry = merges_.find(symbol(i).id, symbol(symbol(i).next).id);
    if (entry.rank != MergeTable::kNone) heap.push_back({entry.rank, i, entry.result});
  };
  for (std::int32_t i = 0; i + 1 < count; ++i) add_pair(i);
  std::make_heap(heap.begin(), heap.end(), Later{});
  const auto push_pair = [&](std::int32_t i) {
    const std::size_t before = heap.size();
    add_pair(i);
    if (heap.size() != before) std::push_heap(heap.begin(), heap.end(), Later{});
  };
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), Later{});
    const Scratch::Candidate top = heap.back();
    heap.pop_back();
    // The pair may be gone: its left token was swallowed (id -1), or either has grown.
    auto& left = symbol(top.at);
    if (left.id < 0 || left.next < 0) continue;
    auto& right = symbol(left.next);
    if (merges_.find(left.id, right.id).rank != top.rank) continue;
    left.id = top.result;
    right.id = -1;
    left.next = right.next;
    if (left.next >= 0) symbol(left.next).previous = top.at;
    if (left.previous >= 0) push_pair(left.previous);
    if (left.next >= 0) push_pair(top.at);
  }
  scratch.word.clear();
  for (std::int32_t i = 0; i >= 0; i = symbol(i).next) scratch.word.push_back(symbol(i).id);
}

}  // namespace neox
