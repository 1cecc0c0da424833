#pragma once
// Which keys a query sees: the arithmetic that every backend shares, also from inside kernels.

#include <cstdint>

#include "core/base/host_device.h"

namespace neox {

/// AttentionMask of kernels/attention_mask.h for a problem of `queries` queries, the first of which
/// has position `offset`. Memory is the device's that asks.
struct MaskView {
  std::int32_t window = 0, queries = 0, offset = 0;
  std::int32_t block = 0, blocks = 0, patterns = 0;
  const std::int32_t* documents = nullptr;
  const std::uint8_t* kept = nullptr;

  NEOX_HOST_DEVICE bool has_first_keys() const { return window > 0 || documents != nullptr; }
  NEOX_HOST_DEVICE bool has_pattern() const { return block > 0; }
  NEOX_HOST_DEVICE bool empty() const { return !has_first_keys() && !has_pattern(); }

  /// The first key of the window and the document of a query. Not decreasing with the query.
  NEOX_HOST_DEVICE std::int32_t first_key(std::int32_t sample, std::int32_t query) const {
    std::int32_t first = window > 0 ? query + offset - window : 0;
    if (documents != nullptr) {
      const std::int32_t document = documents[std::int64_t{sample} * queries + query];
      first = document > first ? document : first;
    }
    return first > 0 ? first : 0;
  }
  /// Behind the last query that has `key` in its window and document: in [0, queries].
  NEOX_HOST_DEVICE std::int32_t end_query(std::int32_t sample, std::int32_t key) const {
    std::int32_t low = 0, high = queries;
    if (!has_first_keys()) return high;
    while (low < high) {
      const std::int32_t middle = low + (high - low) / 2;
      if (first_key(sample, middle) <= key) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low;
  }
  /// Whether the pattern lets a query see a key.
  NEOX_HOST_DEVICE bool keeps(std::int32_t head, std::int32_t query, std::int32_t key) const {
    return !has_pattern() || row_of(head, (query + offset) / block)[key / block] != 0;
  }
  /// Whether the pattern lets any of queries [first, last] see any of keys [first, last].
  NEOX_HOST_DEVICE bool keeps_any(std::int32_t head, std::int32_t first_query,
                                  std::int32_t last_query, std::int32_t first_key,
                                  std::int32_t last_key) const {
    return !has_pattern() || finds(head, first_query, last_query, first_key, last_key, true);
  }
  /// The same for all of them.
  NEOX_HOST_DEVICE bool keeps_all(std::int32_t head, std::int32_t first_query,
                                  std::int32_t last_query, std::int32_t first_key,
                                  std::int32_t last_key) const {
    return !has_pattern() || !finds(head, first_query, last_query, first_key, last_key, false);
  }

 private:
  NEOX_HOST_DEVICE bool finds(std::int32_t head, std::int32_t first_query, std::int32_t last_query,
                              std::int32_t first_key, std::int32_t last_key, bool kept_one) const {
    for (std::int32_t i = (first_query + offset) / block; i <= (last_query + offset) / block; ++i) {
      const std::uint8_t* row = row_of(head, i);
      for (std::int32_t j = first_key / block; j <= last_key / block; ++j) {
        if ((row[j] != 0) == kept_one) return true;
      }
    }
    return false;
  }
  NEOX_HOST_DEVICE const std::uint8_t* row_of(std::int32_t head, std::int32_t query_block) const {
    const std::int64_t pattern = patterns > 1 ? head : 0;
    return kept + (pattern * blocks + query_block) * blocks;
  }
};

}  // namespace neox
