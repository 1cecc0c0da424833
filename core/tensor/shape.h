#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <string>

namespace neox {

/// Extents of a tensor, outermost first; at most 5 axes. A value type.
class Shape {
 public:
  static constexpr int kMaxRank = 5;
  Shape() = default;  // rank 0: a scalar, one element
  Shape(std::initializer_list<std::int64_t> extents);

  int rank() const { return rank_; }
  /// Extent of axis i; negative i counts from the end.
  std::int64_t operator[](int i) const {
    return extent_[static_cast<std::size_t>(i < 0 ? rank_ + i : i)];
  }
  void set(int i, std::int64_t extent) {
    extent_[static_cast<std::size_t>(i < 0 ? rank_ + i : i)] = extent;
  }
  void push_back(std::int64_t extent);
  std::int64_t numel() const;
  /// Product of all but the last extent.
  std::int64_t rows() const;
  /// Last extent (1 for a scalar).
  std::int64_t cols() const {
    return rank_ == 0 ? 1 : extent_[static_cast<std::size_t>(rank_ - 1)];
  }
  bool operator==(const Shape& other) const;
  /// "[2, 32, 64]"
  std::string str() const;

 private:
  std::array<std::int64_t, kMaxRank> extent_{};
  int rank_ = 0;
};

}  // namespace neox
