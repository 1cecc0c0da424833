#include "core/tensor/shape.h"

#include <algorithm>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "core/base/error.h"

namespace neox {

Shape::Shape(std::initializer_list<std::int64_t> extents) {
  for (const std::int64_t extent : extents) push_back(extent);
}

void Shape::push_back(std::int64_t extent) {
  require(rank_ < kMaxRank, "a tensor has at most {} axes", kMaxRank);
  require(extent >= 0, "a tensor axis cannot have the extent {}", extent);
  extent_[static_cast<std::size_t>(rank_++)] = extent;
}

std::int64_t Shape::numel() const {
  std::int64_t n = 1;
  for (int i = 0; i < rank_; ++i) n *= (*this)[i];
  return n;
}

std::int64_t Shape::rows() const {
  std::int64_t n = 1;
  for (int i = 0; i + 1 < rank_; ++i) n *= (*this)[i];
  return n;
}

bool Shape::operator==(const Shape& other) const {
  return rank_ == other.rank_ &&
         std::equal(extent_.begin(), extent_.begin() + rank_, other.extent_.begin());
}

std::string Shape::str() const {
  return fmt::format("[{}]", fmt::join(extent_.begin(), extent_.begin() + rank_, ", "));
}

}  // namespace neox
