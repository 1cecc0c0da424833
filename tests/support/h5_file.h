#pragma once
// Reads whole datasets of a small HDF5 file, for fixtures.

#include <cstdint>
#include <string>
#include <vector>

#include "core/tensor/shape.h"

namespace neox::testing {

class H5File {
 public:
  explicit H5File(const std::string& path);
  ~H5File();
  H5File(const H5File&) = delete;
  H5File& operator=(const H5File&) = delete;

  Shape shape(const std::string& dataset) const;
  std::vector<float> floats(const std::string& dataset) const;
  std::vector<std::int32_t> ints(const std::string& dataset) const;

 private:
  template <class T>
  std::vector<T> read(const std::string& dataset, std::int64_t type) const;
  std::int64_t file_;
};

}  // namespace neox::testing
