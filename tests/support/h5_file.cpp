#include "tests/support/h5_file.h"

#include <hdf5.h>

#include "core/base/error.h"

namespace neox::testing {

H5File::H5File(const std::string& path)
    : file_(H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT)) {
  require(file_ >= 0, "cannot open the fixture {}", path);
}

H5File::~H5File() {
  H5Fclose(file_);
}

Shape H5File::shape(const std::string& dataset) const {
  const hid_t set = H5Dopen2(file_, dataset.c_str(), H5P_DEFAULT);
  require(set >= 0, "the fixture has no dataset {}", dataset);
  const hid_t space = H5Dget_space(set);
  hsize_t extents[Shape::kMaxRank] = {};
  const int rank = H5Sget_simple_extent_dims(space, extents, nullptr);
  H5Sclose(space);
  H5Dclose(set);
  Shape shape;
  for (int i = 0; i < rank; ++i) shape.push_back(static_cast<std::int64_t>(extents[i]));
  return shape;
}

template <class T>
std::vector<T> H5File::read(const std::string& dataset, std::int64_t type) const {
  std::vector<T> values(static_cast<std::size_t>(shape(dataset).numel()));
  const hid_t set = H5Dopen2(file_, dataset.c_str(), H5P_DEFAULT);
  const herr_t status = H5Dread(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data());
  H5Dclose(set);
  require(status >= 0, "cannot read the fixture's dataset {}", dataset);
  return values;
}

std::vector<float> H5File::floats(const std::string& dataset) const {
  return read<float>(dataset, H5T_NATIVE_FLOAT);
}

std::vector<std::int32_t> H5File::ints(const std::string& dataset) const {
  return read<std::int32_t>(dataset, H5T_NATIVE_INT32);
}

}  // namespace neox::testing
