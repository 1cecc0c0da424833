#pragma once
// Index arithmetic of checkpoints: which file bytes a part of a slice is, and whether parts cover a
// tensor.

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/tensor/shard.h"

namespace neox {

/// Elements [begin, end), in row-major order, of a box of a tensor of shape `global`.
struct Part {
  Shape global;
  Slice slice;
  std::int64_t begin = 0;
  std::int64_t end = 0;
  bool operator==(const Part&) const = default;
};

/// Calls f(local, global, count) for each run of elements that is contiguous both in the box and in
/// the tensor: `local` counts from part.begin, `global` is the linear index in the tensor. In
/// rising order.
template <class F>
void for_each_run(const Part& part, F&& f);

/// The same elements as at most 2 * rank - 1 boxes, in rising order.
std::vector<Slice> boxes_of(const Part& part);

/// Nothing when the parts cover every element of a tensor of shape `global` exactly once. Otherwise
/// what is wrong, for people: "elements [0, 0] to [3, 7] are in parts 0 and 2", "12 of 64 elements
/// are in no part". `name(i)` names part i.
std::optional<std::string> coverage_error(const Shape& global, const std::vector<Part>& parts,
                                          const std::vector<std::string>& names);

// ---- implementation
// ---------------------------------------------------------------------------------

namespace detail {
/// Elements of the box that lie in one piece in the tensor.
std::int64_t contiguous_elements(const Part& part);
/// Linear index in the tensor of element `local` of the box.
std::int64_t global_index(const Part& part, std::int64_t local);
}  // namespace detail

template <class F>
void for_each_run(const Part& part, F&& f) {
  if (part.begin >= part.end) return;
  const std::int64_t run = detail::contiguous_elements(part);
  for (std::int64_t at = part.begin; at < part.end;) {
    const std::int64_t end = std::min(part.end, (at / run + 1) * run);
    f(at - part.begin, detail::global_index(part, at), end - at);
    at = end;
  }
}

}  // namespace neox
