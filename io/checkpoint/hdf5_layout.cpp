// Rank 0 alone lays a checkpoint out with the serial driver: creating 1600 datasets takes 30 ms so,
// and 34 ms each when all ranks do it together.

#include <algorithm>
#include <array>
#include <set>
#include <unistd.h>
#include <vector>

#include "core/base/version.h"
#include "io/checkpoint/hdf5_file.h"
#include "io/checkpoint/hdf5_internal.h"
#include "io/checkpoint/sum64.h"

namespace neox {
namespace {

// Attributes live in object headers, whose messages end at 64 KiB.
constexpr std::size_t kLongestAttribute = 60'000;

Hid without_times(hid_t property_class) {
  Hid list = own_hdf5(H5Pcreate(property_class), "H5Pcreate", "properties");
  // Saving the same state twice must give the same bytes.
  check_hdf5(H5Pset_obj_track_times(list.get(), false), "H5Pset_obj_track_times", "properties");
  return list;
}

Hid string_type(std::size_t bytes) {
  Hid type = own_hdf5(H5Tcopy(H5T_C_S1), "H5Tcopy", "a string type");
  check_hdf5(H5Tset_size(type.get(), std::max<std::size_t>(bytes, 1)), "H5Tset_size", "a string");
  check_hdf5(H5Tset_strpad(type.get(), H5T_STR_NULLPAD), "H5Tset_strpad", "a string");
  check_hdf5(H5Tset_cset(type.get(), H5T_CSET_UTF8), "H5Tset_cset", "a string");
  return type;
}

void write_attribute(hid_t object, const std::string& owner, const std::string& name,
                     const AttributeValue& value) {
  const std::string what = "attribute " + name + " of " + owner;
  Hid type;
  const void* data = nullptr;
  std::string text;
  if (const auto* number = std::get_if<std::int64_t>(&value)) {
    type = own_hdf5(H5Tcopy(H5T_STD_I64LE), "H5Tcopy", what);
    data = number;
  } else if (const auto* real = std::get_if<double>(&value)) {
    type = own_hdf5(H5Tcopy(H5T_IEEE_F64LE), "H5Tcopy", what);
    data = real;
  } else {
    text = std::get<std::string>(value);
    require(text.size() <= kLongestAttribute,
            "{} has {} bytes; attributes end at {}: store it as a text", what, text.size(),
            kLongestAttribute);
    type = string_type(text.size());
    data = text.data();  // "" is one zero byte long: std::string ends with one
  }
  const Hid space = own_hdf5(H5Screate(H5S_SCALAR), "H5Screate", what);
  const Hid attribute =
      own_hdf5(H5Acreate2(object, name.c_str(), type.get(), space.get(), H5P_DEFAULT, H5P_DEFAULT),
               "H5Acreate2", what);
  check_hdf5(H5Awrite(attribute.get(), type.get(), data), "H5Awrite", what);
}

void write_attributes(hid_t object, const std::string& owner, const Attributes& attributes) {
  for (const auto& [name, value] : attributes) write_attribute(object, owner, name, value);
}

Attributes root_attributes(const CheckpointInfo& info) {
  Attributes root;
  if (const auto found = info.groups.find("/"); found != info.groups.end()) root = found->second;
  const Attributes own = {{"format", std::string(kFormatName)},
                          {"format_version", kFormatVersion},
                          {"step", info.step},
                          {"consumed_samples", info.consumed_samples},
                          {"consumed_tokens", info.consumed_tokens},
                          {"writer", "neox " + version()}};
  for (const auto& [name, value] : own) {
    require(root.emplace(name, value).second, "attribute {} of / is reserved for the checkpoint",
            name);
  }
  return root;
}

// Builds one file; the steps below are its methods only to share the open file.
class LayoutWriter {
 public:
  explicit LayoutWriter(const std::string& path) : path_(path) {
    const Hid creation = without_times(H5P_FILE_CREATE);
    check_hdf5(H5Pset_userblock(creation.get(), kUserBlockBytes), "H5Pset_userblock", path);
    const Hid access = own_hdf5(H5Pcreate(H5P_FILE_ACCESS), "H5Pcreate", path);
    check_hdf5(H5Pset_file_locking(access.get(), false, true), "H5Pset_file_locking", path);
    // From 1.8 on object headers carry checksums; later formats would only shut older tools out.
    check_hdf5(H5Pset_libver_bounds(access.get(), H5F_LIBVER_V18, H5F_LIBVER_V18),
               "H5Pset_libver_bounds", path);
    // All metadata in one place, so that hashing it is one short read.
    check_hdf5(H5Pset_meta_block_size(access.get(), hsize_t{4} << 20), "H5Pset_meta_block_size",
               path);
    file_ = own_hdf5(H5Fcreate(path.c_str(), H5F_ACC_TRUNC, creation.get(), access.get()),
                     "H5Fcreate", path);
    // The library needs the name no longer, and a process that is killed leaves no file in memory.
    ::unlink(path.c_str());
    dataset_creation_ = without_times(H5P_DATASET_CREATE);
    const hid_t list = dataset_creation_.get();
    check_hdf5(H5Pset_layout(list, H5D_CONTIGUOUS), "H5Pset_layout", path);
    check_hdf5(H5Pset_alloc_time(list, H5D_ALLOC_TIME_EARLY), "H5Pset_alloc_time", path);
    check_hdf5(H5Pset_fill_time(list, H5D_FILL_TIME_NEVER), "H5Pset_fill_time", path);
  }

  void create_groups(const std::set<std::string>& groups, const CheckpointInfo& info) {
    const Hid creation = without_times(H5P_GROUP_CREATE);
    for (const std::string& name : groups) {
      const Hid group =
          own_hdf5(H5Gcreate2(file_.get(), name.c_str(), H5P_DEFAULT, creation.get(), H5P_DEFAULT),
                   "H5Gcreate2", name);
      if (const auto found = info.groups.find(name); found != info.groups.end()) {
        write_attributes(group.get(), name, found->second);
      }
      if (name == "/integrity") {
        write_attribute(group.get(), name, "algorithm", std::string(kSum64Name));
      }
    }
    const Hid root = own_hdf5(H5Gopen2(file_.get(), "/", H5P_DEFAULT), "H5Gopen2", "/");
    write_attributes(root.get(), "/", root_attributes(info));
  }

  void commit_type(const char* name, DType dtype) {
    const Hid creation = without_times(H5P_DATATYPE_CREATE);
    Hid type = hdf5_type(dtype);
    check_hdf5(H5Tcommit2(file_.get(), name, type.get(), H5P_DEFAULT, creation.get(), H5P_DEFAULT),
               "H5Tcommit2", name);
    (dtype == DType::bf16 ? bf16_ : f16_) = std::move(type);
  }

  TableEntry create_tensor(const PlannedTensor& tensor) {
    Hid fresh;
    hid_t type = tensor.dtype == DType::bf16  ? bf16_.get()
                 : tensor.dtype == DType::f16 ? f16_.get()
                                              : (fresh = hdf5_type(tensor.dtype)).get();
    return create(tensor.path, type, tensor.shape, &tensor.attributes);
  }
  TableEntry create_text(const std::string& path, std::size_t bytes) {
    return create(path, string_type(bytes).get(), {}, nullptr);
  }
  TableEntry create_column(const std::string& path, std::int64_t entries,
                           std::size_t string_bytes) {
    const Hid type = string_bytes > 0 ? string_type(string_bytes) : hdf5_type(DType::u64);
    return create(path, type.get(), {entries}, nullptr);
  }
  void create_link(const std::string& path, const std::string& target) {
    check_hdf5(H5Lcreate_soft(target.c_str(), file_.get(), path.c_str(), H5P_DEFAULT, H5P_DEFAULT),
               "H5Lcreate_soft", path);
  }
  void close() {
    bf16_ = {};
    f16_ = {};
    close_hdf5_file(file_, path_);
  }

 private:
  TableEntry create(const std::string& path, hid_t type, const Shape& shape,
                    const Attributes* attributes) {
    std::array<hsize_t, Shape::kMaxRank> extents{};
    for (int i = 0; i < shape.rank(); ++i) {
      extents[static_cast<std::size_t>(i)] = static_cast<hsize_t>(shape[i]);
    }
    const Hid space =
        own_hdf5(shape.rank() == 0 ? H5Screate(H5S_SCALAR)
                                   : H5Screate_simple(shape.rank(), extents.data(), nullptr),
                 "H5Screate", path);
    const Hid dataset = own_hdf5(H5Dcreate2(file_.get(), path.c_str(), type, space.get(),
                                            H5P_DEFAULT, dataset_creation_.get(), H5P_DEFAULT),
                                 "H5Dcreate2", path);
    if (attributes != nullptr) write_attributes(dataset.get(), path, *attributes);
    const haddr_t offset = H5Dget_offset(dataset.get());
    require(offset != HADDR_UNDEF, "H5Dget_offset of {}: no space was allotted", path);
    return {path, static_cast<std::int64_t>(offset),
            shape.numel() * static_cast<std::int64_t>(H5Tget_size(type)), 0};
  }

  std::string path_;
  Hid file_, dataset_creation_, bf16_, f16_;
};

// Every ancestor of every object, sorted, so that parents come first.
std::set<std::string> groups_of(const std::vector<PlannedTensor>& tensors,
                                const CheckpointInfo& info) {
  std::set<std::string> groups = {"/integrity"}, objects;
  const auto add = [&](const std::string& path) {
    check_hdf5_path(path);
    for (const char* reserved : {"/integrity", "/types"}) {
      require(path != reserved && !path.starts_with(std::string(reserved) + "/"),
              "{} is reserved for the checkpoint itself: use another name", path);
    }
    require(objects.insert(path).second, "the checkpoint would hold {} twice", path);
    for (std::size_t at = path.rfind('/'); at > 0; at = path.rfind('/', at - 1)) {
      groups.insert(path.substr(0, at));
    }
  };
  for (const PlannedTensor& tensor : tensors) add(tensor.path);
  for (const auto& [path, text] : info.texts) add(path);
  for (const auto& [path, target] : info.links) add(path);
  for (const auto& [path, attributes] : info.groups) {
    if (path == "/") continue;
    check_hdf5_path(path);
    groups.insert(path);
    for (std::size_t at = path.rfind('/'); at > 0; at = path.rfind('/', at - 1)) {
      groups.insert(path.substr(0, at));
    }
  }
  for (const std::string& object : objects) {
    require(!groups.contains(object), "{} cannot be both a group and a tensor, text or link",
            object);
  }
  for (const auto& [path, target] : info.links) {
    require(objects.contains(target) && !info.links.contains(target),
            "the link {} points to {}, which is no tensor of this checkpoint", path, target);
  }
  return groups;
}

}  // namespace

void check_hdf5_path(const std::string& path) {
  bool good = path.size() > 1 && path.front() == '/' && path.back() != '/' &&
              path.find('\0') == std::string::npos && path.size() < 4096;
  for (const char* bad : {"//", "/./", "/../"}) {
    good = good && (path + "/").find(bad) == std::string::npos;
  }
  require(good, "'{}' is no path inside a checkpoint: it must look like /model/embed_in/weight",
          path);
}

FileLayout create_hdf5_layout(const std::string& path, const std::vector<PlannedTensor>& tensors,
                              const CheckpointInfo& info) {
  silence_hdf5();
  require(!tensors.empty() || !info.texts.empty(), "a checkpoint without any tensor or text");
  std::set<std::string> groups = groups_of(tensors, info);
  bool has_bf16 = false, has_f16 = false;
  for (const PlannedTensor& tensor : tensors) {
    has_bf16 = has_bf16 || tensor.dtype == DType::bf16;
    has_f16 = has_f16 || tensor.dtype == DType::f16;
  }
  if (has_bf16 || has_f16) groups.insert("/types");

  LayoutWriter writer(path);
  writer.create_groups(groups, info);
  if (has_bf16) writer.commit_type("/types/bfloat16", DType::bf16);
  if (has_f16) writer.commit_type("/types/float16", DType::f16);
  FileLayout layout;
  std::size_t longest = 1;
  for (const PlannedTensor& tensor : tensors)
    layout.entries.push_back(writer.create_tensor(tensor));
  for (const auto& [text_path, text] : info.texts) {
    layout.entries.push_back(writer.create_text(text_path, text.size()));
  }
  for (const auto& [link, target] : info.links) writer.create_link(link, target);
  for (const TableEntry& entry : layout.entries) longest = std::max(longest, entry.path.size());

  TablePlace& table = layout.header.table;
  table.entries = static_cast<std::int64_t>(layout.entries.size());
  table.path_bytes = static_cast<std::int64_t>(longest);
  table.path_offset = writer.create_column("/integrity/path", table.entries, longest).offset;
  table.offset_offset = writer.create_column("/integrity/offset", table.entries, 0).offset;
  table.bytes_offset = writer.create_column("/integrity/bytes", table.entries, 0).offset;
  table.sum_offset = writer.create_column("/integrity/sum64", table.entries, 0).offset;
  writer.close();
  layout.header.step = info.step;
  return layout;
}

}  // namespace neox
