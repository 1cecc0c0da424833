#include <bit>
#include <cstring>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/parallel.h"

namespace neox {
namespace {

constexpr std::uint64_t kOdd = 0x9e3779b97f4a7c15u;
constexpr std::int64_t kWordBytes = 8;
static_assert(std::endian::native == std::endian::little, "hash reads little-endian words");

inline std::uint64_t mix(std::uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

inline std::uint64_t term(std::uint64_t word, std::int64_t index) {
  return mix(word + (static_cast<std::uint64_t>(index) + 1) * kOdd);
}

std::uint64_t sum_of_terms(const std::byte* bytes, std::int64_t begin, std::int64_t end) {
  std::uint64_t sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t i = begin; i < end; ++i) {
    std::uint64_t word;
    std::memcpy(&word, bytes + i * kWordBytes, sizeof word);
    sum += term(word, i);
  }
  return sum;
}

std::uint64_t hash_of(const std::byte* bytes, std::int64_t n) {
  constexpr std::int64_t kBlock = 1 << 14;  // words to a piece of work
  const std::int64_t words = n / kWordBytes, blocks = (words + kBlock - 1) / kBlock;
  std::uint64_t sum = static_cast<std::uint64_t>(n) * kOdd;
#pragma omp parallel for schedule(static) reduction(+ : sum) if (blocks > 1)
  for (std::int64_t b = 0; b < blocks; ++b) {
    sum += sum_of_terms(bytes, b * kBlock, std::min(words, (b + 1) * kBlock));
  }
  if (const std::int64_t rest = n - words * kWordBytes; rest > 0) {
    std::uint64_t last = 0;
    std::memcpy(&last, bytes + words * kWordBytes, static_cast<std::size_t>(rest));
    sum += term(last, words);
  }
  return mix(sum);
}

}  // namespace

void CpuBackend::hash(Stream&, ConstTensor x, Tensor out, bool accumulate) const {
  check_host_access(x.dtype, x.dtype, x.device);
  const std::uint64_t hash = hash_of(x.data, static_cast<std::int64_t>(x.bytes()));
  auto* result = out.ptr<std::uint64_t>();
  *result = accumulate ? mix(*result * kOdd + hash) : hash;
}

}  // namespace neox
