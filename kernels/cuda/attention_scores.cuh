#pragma once
// What happens to a score between q.k and the softmax, by the position of its query and key: who
// sees whom, and which probabilities dropout keeps.

#include "kernels/cuda/attention_kernels.h"
#include "kernels/cuda/block.cuh"
#include "kernels/dropout.h"

/// Before a loop that is worth `times` copies of its body, and no more: code has a cost too.
#ifdef __CUDA_ARCH__
#define NEOX_PRAGMA(text) _Pragma(#text)
#define NEOX_UNROLL_BY(times) NEOX_PRAGMA(unroll times)
#else
#define NEOX_UNROLL_BY(times)
#endif

namespace neox::cuda {

inline constexpr float kLog2E = 1.4426950408889634f;
inline constexpr float kLn2 = 0.6931471805599453f;

/// 2^x. On a GPU the instruction alone: its error is 2 units in the last place.
NEOX_HOST_DEVICE inline float power_of_2(float x) {
#ifdef __CUDA_ARCH__
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return std::exp2(x);
#endif
}

/// Causal attention: query i sees keys j <= i + key_length - query_length.
///
/// The attention kernels take the form of the scores as a type, of which this is the plainest.
/// Another one (ALiBi, a mask) has the same members:
///   of_head(sample, head)      the scores of one head
///   kBiased, bias(i, j)        what is added to scale q.k, if biased(); compiled away where
///   kBiased
///                              is false
///   visible(i, j)              whether query i sees key j < key_length
///   all_visible(...)           whether every pair of a tile is visible, so that no one is asked
///   kSkips, any_visible(...)   whether a tile between those that are seen may not be, and is not;
///                              ranges end with the last query or key there is
///   first_key, end_key         keys that a range of queries may see
///   first_query, end_query     queries that may see a range of keys
/// The last query or key of a range may lie up to a tile behind the last one there is.
struct CausalScores {
  int query_length, key_length;
  static constexpr bool kBiased = false, kSkips = false;

  explicit CausalScores(const AttentionSizes& s)
      : query_length(s.query_length), key_length(s.key_length) {}
  NEOX_HOST_DEVICE CausalScores of_head(int, int) const { return *this; }

  NEOX_HOST_DEVICE bool biased() const { return false; }
  NEOX_HOST_DEVICE float bias(int, int) const { return 0.0f; }
  NEOX_HOST_DEVICE int offset() const { return key_length - query_length; }
  NEOX_HOST_DEVICE bool visible(int query, int key) const { return key <= query + offset(); }
  NEOX_HOST_DEVICE bool all_visible(int first_query, int, int, int last_key) const {
    return last_key <= first_query + offset();
  }
  NEOX_HOST_DEVICE bool any_visible(int, int, int, int) const { return true; }
  NEOX_HOST_DEVICE int first_key(int) const { return 0; }
  NEOX_HOST_DEVICE int end_key(int last_query) const {
    const int end = last_query + offset() + 1;
    return end < key_length ? end : key_length;
  }
  NEOX_HOST_DEVICE int first_query(int first_key) const {
    return first_key > offset() ? first_key - offset() : 0;
  }
  NEOX_HOST_DEVICE int end_query(int) const { return query_length; }
};

/// Which probabilities of a warp's accumulator dropout keeps: bit 4 n + e says it of element e of
/// the n-th 8 columns. The draws are those of every other backend. Where rows of the score matrix
/// start at whole Philox counters, each lane computes a share of the counters of its neighbours and
/// passes the decisions on: one call for 4 elements.
class ProbabilityMask {
 public:
  ProbabilityMask(const AttentionSizes& s, const ProbabilityDropout& d)
      : dropout_(d), rule_(d.p), query_length_(s.query_length), key_length_(s.key_length) {}

  /// False without dropout: every probability is kept as it is.
  NEOX_HOST_DEVICE bool active() const { return dropout_.p > 0.0f; }
  /// What kept probabilities are multiplied by.
  NEOX_HOST_DEVICE float scale() const { return rule_.scale; }

  /// Draw index of key 0 for query 0 of a head.
  NEOX_HOST_DEVICE std::uint64_t of_head(int sample, int head) const {
    const std::int64_t first =
        dropout_.position == nullptr ? dropout_.first_sample : dropout_.position->first_sample;
    const std::int64_t row = (first + sample) * dropout_.global_heads + dropout_.first_head + head;
    return static_cast<std::uint64_t>(row * query_length_) *
           static_cast<std::uint64_t>(key_length_);
  }

  /// Rows are queries from `query` on, columns keys from `key` (a multiple of 8) on.
  template <int kBlocks>
  NEOX_HOST_DEVICE std::uint32_t by_queries(const Block& block, std::uint64_t first, int query,
                                            int key) const {
    static_assert(kBlocks <= 8);
    const int group = block.lane() / 4, member = block.lane() % 4, odd = member % 2;
    std::uint32_t bits = 0;
    if (key_length_ % 4 == 0) {
      // Of keys 4 (member / 2) ... + 3 the even lane asks for row group, the odd one for group + 8.
      const std::uint64_t counter =
          (first + at(query + group + 8 * odd, key + 4 * (member / 2))) / 4;
      const RngKey key_words = key_of_run();
      NEOX_UNROLL_BY(2)
      for (int n = 0; n < kBlocks; ++n) {
        bits |= keep(philox(key_words, counter + static_cast<std::uint64_t>(2 * n))) << (4 * n);
      }
      const std::uint32_t other = block.shuffle_xor(bits, 1);
      const std::uint32_t low = odd ? other : bits, high = odd ? bits : other;
      return ((low >> (2 * odd)) & 0x33333333u) | (((high >> (2 * odd)) & 0x33333333u) << 2);
    }
    NEOX_UNROLL_BY(1)
    for (int i = 0; i < 4 * kBlocks; ++i) {
      const int row = query + group + i / 2 % 2 * 8, column = key + i / 4 * 8 + 2 * member + i % 2;
      bits |= keep(philox_word(key_of_run(), first + at(row, column))) << i;
    }
    return bits;
  }

  /// Rows are keys from `key` (a multiple of 8) on, columns queries from `query` on.
  template <int kBlocks>
  NEOX_HOST_DEVICE std::uint32_t by_keys(const Block& block, std::uint64_t first, int key,
                                         int query) const {
    static_assert(kBlocks <= 8);
    const int group = block.lane() / 4, member = block.lane() % 4, part = group % 4;
    std::uint32_t bits = 0;
    if (key_length_ % 4 == 0) {
      // Of keys 4 (group / 4) ... + 3 lane `part` of four asks for element `part` of each.
      const int row = key + group / 4 * 4 + part / 2 * 8, column = query + 2 * member + part % 2;
      const RngKey key_words = key_of_run();
      NEOX_UNROLL_BY(2)
      for (int n = 0; n < kBlocks; ++n) {
        bits |= keep(philox(key_words, (first + at(column + 8 * n, row)) / 4)) << (4 * n);
      }
      std::uint32_t mine = 0;
      NEOX_UNROLL
      for (int e = 0; e < 4; ++e) {
        const std::uint32_t of_element = block.shuffle(bits, (block.lane() & ~12) | (e << 2));
        mine |= ((of_element >> part) & 0x11111111u) << e;
      }
      return mine;
    }
    NEOX_UNROLL_BY(1)
    for (int i = 0; i < 4 * kBlocks; ++i) {
      const int row = key + group + i / 2 % 2 * 8, column = query + i / 4 * 8 + 2 * member + i % 2;
      bits |= keep(philox_word(key_of_run(), first + at(column, row))) << i;
    }
    return bits;
  }

  /// Sets the dropped elements of one 16 rows of an accumulator to 0.
  template <int kBlocks>
  NEOX_HOST_DEVICE static void drop(std::uint32_t kept, float (&s)[kBlocks][4]) {
    NEOX_UNROLL
    for (int i = 0; i < 4 * kBlocks; ++i) {
      if (((kept >> i) & 1u) == 0) s[i / 4][i % 4] = 0.0f;
    }
  }

 private:
  NEOX_HOST_DEVICE std::uint64_t at(int query, int key) const {
    return static_cast<std::uint64_t>(query) * static_cast<std::uint64_t>(key_length_) +
           static_cast<std::uint64_t>(key);
  }
  NEOX_HOST_DEVICE RngKey key_of_run() const {
    return dropout_.position == nullptr ? dropout_.key
                                        : dropout_.key.at_step(dropout_.position->step);
  }
  NEOX_HOST_DEVICE std::uint32_t keep(std::uint32_t word) const {
    return static_cast<std::int32_t>(word >> 8) >= rule_.threshold ? 1u : 0u;
  }
  NEOX_HOST_DEVICE std::uint32_t keep(const PhiloxWords& words) const {
    return keep(words.word[0]) | (keep(words.word[1]) << 1) | (keep(words.word[2]) << 2) |
           (keep(words.word[3]) << 3);
  }

  ProbabilityDropout dropout_;
  KeepRule rule_;
  int query_length_, key_length_;
};

}  // namespace neox::cuda
