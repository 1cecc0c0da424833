#pragma once
// "sum64-splitmix-v1": a checksum of a tensor that does not depend on who sums which part in what
// order.

#include <cstddef>
#include <cstdint>

namespace neox {

inline constexpr const char* kSum64Name = "sum64-splitmix-v1";

/// sum over i of (bits(x_i) + 1) * (splitmix64(i) | 1) mod 2^64, where i = first_index, first_index
/// + 1, … is the index in the whole tensor and bits the element as an unsigned number of
/// `element_size` (1, 2, 4 or 8) bytes. Sums of disjoint parts add up to the sum of the whole. A
/// change of one element always changes the sum; others slip through with probability 2^-63.
std::uint64_t sum64(const std::byte* data, std::size_t element_size, std::int64_t count,
                    std::int64_t first_index);

}  // namespace neox
