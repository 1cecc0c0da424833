#include "io/checkpoint/boxes.h"

#include <numeric>

#include <fmt/format.h>

namespace neox {
namespace {

// Elements of the box below one step of axis `axis`.
std::int64_t stride_of(const Slice& box, int axis) {
  std::int64_t stride = 1;
  for (int i = axis + 1; i < box.extent.rank(); ++i) stride *= box.extent[i];
  return stride;
}

// Appends boxes for elements [begin, end) of `box`, whose axes before `axis` have extent one.
void split(const Slice& box, int axis, std::int64_t begin, std::int64_t end,
           std::vector<Slice>& out) {
  if (begin >= end) return;
  if (begin == 0 && end == box.extent.numel()) {
    out.push_back(box);
    return;
  }
  const std::int64_t stride = stride_of(box, axis);
  const auto rows = [&](std::int64_t first, std::int64_t count) {
    Slice part = box;
    part.offset.set(axis, box.offset[axis] + first);
    part.extent.set(axis, count);
    return part;
  };
  const std::int64_t first = begin / stride, last = end / stride;
  if (first == last) {
    split(rows(first, 1), axis + 1, begin - first * stride, end - first * stride, out);
    return;
  }
  std::int64_t full = first;
  if (begin % stride != 0) {
    split(rows(first, 1), axis + 1, begin - first * stride, stride, out);
    ++full;
  }
  if (full < last) out.push_back(rows(full, last - full));
  split(rows(last, end % stride == 0 ? 0 : 1), axis + 1, 0, end % stride, out);
}

}  // namespace

std::int64_t detail::contiguous_elements(const Part& part) {
  std::int64_t run = 1;
  for (int axis = part.global.rank() - 1; axis >= 0; --axis) {
    run *= part.slice.extent[axis];
    if (part.slice.extent[axis] != part.global[axis]) break;
  }
  return run;
}

std::int64_t detail::global_index(const Part& part, std::int64_t local) {
  std::int64_t index = 0, scale = 1;
  for (int axis = part.global.rank() - 1; axis >= 0; --axis) {
    const std::int64_t extent = part.slice.extent[axis];
    index += (part.slice.offset[axis] + local % extent) * scale;
    local /= extent;
    scale *= part.global[axis];
  }
  return index;
}

std::vector<Slice> boxes_of(const Part& part) {
  std::vector<Slice> boxes;
  split(part.slice, 0, part.begin, part.end, boxes);
  return boxes;
}

std::optional<std::string> coverage_error(const Shape& global, const std::vector<Part>& parts,
                                          const std::vector<std::string>& names) {
  struct Owned {
    Slice box;
    std::size_t part;
  };
  std::vector<Owned> boxes;
  std::int64_t covered = 0;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    for (const Slice& box : boxes_of(parts[i])) {
      boxes.push_back({box, i});
      covered += box.extent.numel();
    }
  }
  const auto first_row = [&](const Owned& o) { return global.rank() == 0 ? 0 : o.box.offset[0]; };
  const auto end_row = [&](const Owned& o) {
    return global.rank() == 0 ? 1 : o.box.offset[0] + o.box.extent[0];
  };
  std::sort(boxes.begin(), boxes.end(),
            [&](const Owned& a, const Owned& b) { return first_row(a) < first_row(b); });
  for (std::size_t i = 0; i < boxes.size(); ++i) {
    for (std::size_t j = i + 1; j < boxes.size() && first_row(boxes[j]) < end_row(boxes[i]); ++j) {
      if (const auto common = intersect(boxes[i].box, boxes[j].box)) {
        return fmt::format("the box at {} of extent {} is in the parts of {} and {}",
                           common->offset.str(), common->extent.str(), names[boxes[i].part],
                           names[boxes[j].part]);
      }
    }
  }
  if (covered == global.numel()) return std::nullopt;
  return fmt::format("{} of its {} elements are in nobody's part", global.numel() - covered,
                     global.numel());
}

}  // namespace neox
