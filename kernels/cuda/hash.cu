// kernels/hash.h: sums modulo 2^64 have no order, so every way of adding gives the same hash.

#include "kernels/cuda/block.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/optimizer_kernels.h"

namespace neox::cuda {
namespace {

constexpr int kHashThreads = 256;
constexpr std::int64_t kLeastPiece = 8192;  // words of a block
constexpr std::int64_t kWordBytes = 8;
constexpr std::uint64_t kOdd = 0x9e3779b97f4a7c15u;

NEOX_HOST_DEVICE inline std::uint64_t mix(std::uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}
NEOX_HOST_DEVICE inline std::uint64_t term(std::uint64_t word, std::int64_t index) {
  return mix(word + (static_cast<std::uint64_t>(index) + 1) * kOdd);
}

struct alignas(16) TwoWords {
  std::uint64_t word[2];
};

/// scratch[b] = the sum of the terms of block b's words.
struct SumTerms {
  static constexpr int kThreads = kHashThreads;
  const unsigned char* x;
  std::int64_t bytes, piece;  // piece: words, an even number
  bool vectors;
  std::uint64_t* scratch;

  NEOX_HOST_DEVICE void operator()(const Block& block) const {
    const std::int64_t words = (bytes + kWordBytes - 1) / kWordBytes;
    const std::int64_t begin = block.x() * piece;
    const std::int64_t end = begin + piece < words ? begin + piece : words;
    std::uint64_t sum = 0;
    const std::int64_t step = std::int64_t{block.threads()} * 2;
    for (std::int64_t at = begin + std::int64_t{block.thread()} * 2; at < end; at += step) {
      if (vectors && (at + 2) * kWordBytes <= bytes) {
        const TwoWords two = *reinterpret_cast<const TwoWords*>(x + at * kWordBytes);
        sum += term(two.word[0], at) + term(two.word[1], at + 1);
      } else {
        sum += term(word_at(at), at);
        if (at + 1 < end) sum += term(word_at(at + 1), at + 1);
      }
    }
    sum = block.sum(sum);
    if (block.thread() == 0) scratch[block.x()] = sum;
  }

  /// Little-endian, filled up with zeros; of any address.
  NEOX_HOST_DEVICE std::uint64_t word_at(std::int64_t index) const {
    std::uint64_t word = 0;
    for (std::int64_t i = 0; i < kWordBytes; ++i) {
      const std::int64_t at = index * kWordBytes + i;
      if (at < bytes) word |= std::uint64_t{x[at]} << (8 * i);
    }
    return word;
  }
};

struct Finish {
  static constexpr int kThreads = kMostPartialSums;
  const std::uint64_t* scratch;
  std::int64_t count, bytes;
  std::uint64_t* out;
  bool accumulate;
  NEOX_HOST_DEVICE void operator()(const Block& block) const {
    const std::uint64_t sum =
        block.sum(block.thread() < count ? scratch[block.thread()] : std::uint64_t{0});
    if (block.thread() > 0) return;
    const std::uint64_t hash = mix(static_cast<std::uint64_t>(bytes) * kOdd + sum);
    *out = accumulate ? mix(*out * kOdd + hash) : hash;
  }
};

}  // namespace

void hash(const Launch& launch, const void* x, std::int64_t bytes, std::uint64_t* scratch,
          std::uint64_t* out, bool accumulate) {
  const std::int64_t words = (bytes + kWordBytes - 1) / kWordBytes;
  const std::int64_t even = (words + kMostPartialSums - 1) / kMostPartialSums;
  const std::int64_t piece = std::max(kLeastPiece, (even + 1) / 2 * 2);
  const std::int64_t pieces = (words + piece - 1) / piece;
  launch_blocks(launch, {pieces}, kHashThreads, 0,
                SumTerms{static_cast<const unsigned char*>(x), bytes, piece, aligned(x), scratch});
  launch_blocks(launch, {}, Finish::kThreads, 0, Finish{scratch, pieces, bytes, out, accumulate});
}

}  // namespace neox::cuda
