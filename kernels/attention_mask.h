#pragma once
// Which keys a query sees, besides that none lies behind it.

#include <cstdint>

#include "core/tensor/tensor.h"
#include "kernels/mask_view.h"

namespace neox {

/// Block-sparse attention: positions are cut into blocks, and a query sees the keys of the blocks
/// that its own block keeps.
struct BlockPattern {
  std::int64_t block = 0;  ///< positions; a multiple of 16; 0: every block is kept
  /// u8 [patterns, blocks, blocks]: not 0 where the queries of one block see the keys of another.
  /// One pattern for all heads, or one for each head here. A block keeps itself.
  ConstTensor kept{};
};

/// The query at position i sees key j when j lies in [first, i], where first is the larger of i -
/// window and its document's begin, and the pattern keeps j's block. Query q of a problem has
/// position q + key_length - query_length. Every query sees at least itself.
struct AttentionMask {
  std::int64_t window = 0;  ///< a sliding window: itself and so many keys before it; 0: all
  /// i32 [batch, query_length], not decreasing along a row: key with which the query's document
  /// begins, at most the query's position. Undefined: the keys are one document.
  ConstTensor documents{};
  BlockPattern pattern{};
};

/// Throws Error on tensors of other types or shapes or on other devices, on blocks that are no
/// multiple of 16, on a pattern that does not reach the last key.
MaskView mask_view(const AttentionMask& mask, Device device, std::int64_t batch, std::int64_t heads,
                   std::int64_t query_length, std::int64_t key_length);

}  // namespace neox
