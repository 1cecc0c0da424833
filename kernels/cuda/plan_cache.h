#pragma once
// What was worked out once for a problem, and is found again at every later call.

#include <cstdint>
#include <unordered_map>
#include <utility>

namespace neox {

/// Mixes a number into a hash; the finalizer of SplitMix64 (Steele, Lea, Flood 2014).
inline void mix_hash(std::uint64_t& hash, std::int64_t value) {
  std::uint64_t z = (hash ^ static_cast<std::uint64_t>(value)) + 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  hash = z ^ (z >> 31);
}

/// `Key` has operator== and hash(). Plans keep their addresses.
template <class Key, class Plan>
class PlanCache {
 public:
  /// The plan of `key`; make() makes it when there is none. When make() throws nothing is kept.
  /// make() may itself ask for plans of other keys.
  template <class Make>
  Plan& get(const Key& key, Make&& make) {
    if (const auto found = plans_.find(key); found != plans_.end()) {
      ++hits_;
      return found->second;
    }
    ++misses_;
    return plans_.emplace(key, std::forward<Make>(make)()).first->second;
  }

  std::size_t size() const { return plans_.size(); }
  std::int64_t hits() const { return hits_; }
  std::int64_t misses() const { return misses_; }

 private:
  struct Hash {
    std::size_t operator()(const Key& key) const { return key.hash(); }
  };
  std::unordered_map<Key, Plan, Hash> plans_;
  std::int64_t hits_ = 0;
  std::int64_t misses_ = 0;
};

}  // namespace neox
