// What the HDF5 library finds in a checkpoint. Runs only on files whose metadata hash matched, so
// the library never parses damaged metadata.

#include <array>
#include <vector>

#include "io/checkpoint/hdf5_file.h"
#include "io/checkpoint/hdf5_internal.h"

namespace neox {
namespace {

struct Link {
  std::string path;
  bool soft;
};

// Called by C code: nothing may be thrown through it.
herr_t collect_link(hid_t, const char* name, const H5L_info_t* info, void* to) noexcept {
  try {
    static_cast<std::vector<Link>*>(to)->push_back(
        {std::string("/") + name, info->type == H5L_TYPE_SOFT});
    return 0;
  } catch (...) {
    return -1;
  }
}

std::string read_string(std::string text) {
  text.resize(text.find_last_not_of('\0') + 1);
  return text;
}

AttributeValue read_attribute(hid_t attribute, const std::string& what) {
  const Hid type = own_hdf5(H5Aget_type(attribute), "H5Aget_type", what);
  switch (H5Tget_class(type.get())) {
    case H5T_INTEGER: {
      std::int64_t value = 0;
      check_hdf5(H5Aread(attribute, H5T_NATIVE_INT64, &value), "H5Aread", what);
      return value;
    }
    case H5T_FLOAT: {
      double value = 0;
      check_hdf5(H5Aread(attribute, H5T_NATIVE_DOUBLE, &value), "H5Aread", what);
      return value;
    }
    case H5T_STRING: {
      require(H5Tis_variable_str(type.get()) == 0, "{} is a string of variable length", what);
      std::string text(H5Tget_size(type.get()), '\0');
      check_hdf5(H5Aread(attribute, type.get(), text.data()), "H5Aread", what);
      return read_string(std::move(text));
    }
    default:
      fail("{} has a type that neox does not use", what);
  }
}

Attributes read_attributes(hid_t object, const std::string& owner) {
  Attributes attributes;
  H5O_info_t info;
  check_hdf5(H5Oget_info2(object, &info, H5O_INFO_NUM_ATTRS), "H5Oget_info2", owner);
  for (hsize_t i = 0; i < info.num_attrs; ++i) {
    const std::string what = "an attribute of " + owner;
    const Hid attribute = own_hdf5(
        H5Aopen_by_idx(object, ".", H5_INDEX_NAME, H5_ITER_INC, i, H5P_DEFAULT, H5P_DEFAULT),
        "H5Aopen_by_idx", what);
    const ssize_t length = H5Aget_name(attribute.get(), 0, nullptr);
    check_hdf5(length, "H5Aget_name", what);
    std::string name(static_cast<std::size_t>(length), '\0');
    H5Aget_name(attribute.get(), name.size() + 1, name.data());
    attributes[name] = read_attribute(attribute.get(), "attribute " + name + " of " + owner);
  }
  return attributes;
}

std::int64_t take_number(Attributes& attributes, const char* name) {
  const auto found = attributes.find(name);
  const auto* number =
      found == attributes.end() ? nullptr : std::get_if<std::int64_t>(&found->second);
  require(number != nullptr, "the attribute {} of / is missing", name);
  const std::int64_t value = *number;
  attributes.erase(found);
  return value;
}

void read_dataset(hid_t dataset, const std::string& path, Hdf5Contents& contents) {
  const Hid type = own_hdf5(H5Dget_type(dataset), "H5Dget_type", path);
  const Hid space = own_hdf5(H5Dget_space(dataset), "H5Dget_space", path);
  const auto offset = static_cast<std::int64_t>(H5Dget_offset(dataset));
  if (H5Tget_class(type.get()) == H5T_STRING) {
    contents.texts[path] = {path, offset, static_cast<std::int64_t>(H5Tget_size(type.get())), 0};
    return;
  }
  const int rank = H5Sget_simple_extent_ndims(space.get());
  require(0 <= rank && rank <= Shape::kMaxRank, "{} has {} axes; neox tensors have at most {}",
          path, rank, Shape::kMaxRank);
  std::array<hsize_t, Shape::kMaxRank> extents{};
  check_hdf5(H5Sget_simple_extent_dims(space.get(), extents.data(), nullptr),
             "H5Sget_simple_extent_dims", path);
  StoredTensor tensor;
  tensor.path = path;
  tensor.dtype = dtype_of_hdf5(type.get(), path);
  for (int i = 0; i < rank; ++i) {
    tensor.shape.push_back(static_cast<std::int64_t>(extents[static_cast<std::size_t>(i)]));
  }
  tensor.attributes = read_attributes(dataset, path);
  tensor.file_offset = offset;
  contents.tensors.push_back(std::move(tensor));
}

void read_link(hid_t file, const std::string& path, Hdf5Contents& contents) {
  H5L_info_t info;
  check_hdf5(H5Lget_info(file, path.c_str(), &info, H5P_DEFAULT), "H5Lget_info", path);
  std::string target(info.u.val_size, '\0');
  check_hdf5(H5Lget_val(file, path.c_str(), target.data(), target.size(), H5P_DEFAULT),
             "H5Lget_val", path);
  contents.info.links[path] = read_string(std::move(target));
}

void read_root(hid_t file, Hdf5Contents& contents) {
  const Hid root = own_hdf5(H5Gopen2(file, "/", H5P_DEFAULT), "H5Gopen2", "/");
  Attributes attributes = read_attributes(root.get(), "/");
  contents.info.step = take_number(attributes, "step");
  contents.info.consumed_samples = take_number(attributes, "consumed_samples");
  contents.info.consumed_tokens = take_number(attributes, "consumed_tokens");
  take_number(attributes, "format_version");
  attributes.erase("format");
  attributes.erase("writer");
  if (!attributes.empty()) contents.info.groups["/"] = std::move(attributes);
}

}  // namespace

Hdf5Contents read_hdf5_contents(const std::string& path) {
  silence_hdf5();
  const Hid access = own_hdf5(H5Pcreate(H5P_FILE_ACCESS), "H5Pcreate", path);
  // Our own locks guard unfinished files; the library's would only shut readers out on odd file
  // systems.
  check_hdf5(H5Pset_file_locking(access.get(), false, true), "H5Pset_file_locking", path);
  const Hid file = own_hdf5(H5Fopen(path.c_str(), H5F_ACC_RDONLY, access.get()), "H5Fopen", path);
  Hdf5Contents contents;
  read_root(file.get(), contents);
  std::vector<Link> links;
  check_hdf5(H5Lvisit(file.get(), H5_INDEX_NAME, H5_ITER_INC, collect_link, &links), "H5Lvisit",
             path);
  for (const Link& link : links) {
    if (link.path.starts_with("/integrity/") || link.path.starts_with("/types/")) continue;
    if (link.soft) {
      read_link(file.get(), link.path, contents);
      continue;
    }
    const Hid object =
        own_hdf5(H5Oopen(file.get(), link.path.c_str(), H5P_DEFAULT), "H5Oopen", link.path);
    switch (H5Iget_type(object.get())) {
      case H5I_DATASET:
        read_dataset(object.get(), link.path, contents);
        break;
      case H5I_GROUP: {
        if (link.path == "/integrity" || link.path == "/types") break;
        Attributes attributes = read_attributes(object.get(), link.path);
        if (!attributes.empty()) contents.info.groups[link.path] = std::move(attributes);
        break;
      }
      default:
        fail("{} holds {}, which is neither group nor dataset", path, link.path);
    }
  }
  return contents;
}

}  // namespace neox
