#include <algorithm>
#include <bit>
#include <cstring>
#include <filesystem>
#include <set>
#include <sys/mman.h>
#include <type_traits>
#include <unistd.h>
#include <utility>

#include <fmt/format.h>
#include <simdjson.h>

#include "core/base/error.h"
#include "io/data/mapped_file.h"
#include "io/safetensors.h"

namespace neox {
namespace {

namespace fs = std::filesystem;
using simdjson::dom::element;
using simdjson::dom::object;

static_assert(std::endian::native == std::endian::little, "safetensors files are little-endian");

constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;  // the format's own limit
constexpr std::string_view kMetadataKey = "__metadata__";

std::optional<DType> parse_dtype(std::string_view name) {
  static constexpr std::pair<std::string_view, DType> kTypes[] = {
      {"F64", DType::f64}, {"F32", DType::f32}, {"F16", DType::f16}, {"BF16", DType::bf16},
      {"I64", DType::i64}, {"I32", DType::i32}, {"I16", DType::i16}, {"I8", DType::i8},
      {"U64", DType::u64}, {"U32", DType::u32}, {"U16", DType::u16}, {"U8", DType::u8},
      {"BOOL", DType::u8}};
  for (const auto& [text, dtype] : kTypes) {
    if (text == name) return dtype;
  }
  return std::nullopt;
}

element parse_json(simdjson::dom::parser& parser, std::string_view text, const std::string& what) {
  element root;
  const auto error = parser.parse(text.data(), text.size()).get(root);
  require(error == simdjson::SUCCESS, "{} is not valid JSON: {}", what,
          simdjson::error_message(error));
  return root;
}

/// The JSON header of one file: names, types, shapes and places, all checked.
class HeaderParser {
 public:
  HeaderParser(const std::string& path, const MappedFile& file, std::size_t index)
      : path_(path), file_(file), index_(index) {}

  void parse(std::vector<SafetensorsEntry>& entries, std::map<std::string, std::string>& metadata) {
    const std::string_view header = header_text();
    simdjson::dom::parser parser;
    object root;
    require(parse_json(parser, header, fmt::format("the header of '{}'", path_)).get(root) ==
                simdjson::SUCCESS,
            "the header of '{}' is not a JSON object", path_);
    std::set<std::string_view> seen;
    for (const auto [name, value] : root) {
      require(seen.insert(name).second, "'{}' names '{}' twice", path_, name);
      if (name == kMetadataKey) {
        parse_metadata(value, metadata);
      } else {
        parse_tensor(std::string(name), value);
      }
    }
    check_places();
    std::move(tensors_.begin(), tensors_.end(), std::back_inserter(entries));
  }

 private:
  std::string_view header_text() {
    require(file_.size() >= sizeof(std::uint64_t),
            "'{}' is not a safetensors file: it has {} bytes, fewer than the 8 of the header's "
            "length",
            path_, file_.size());
    const auto length = load_unaligned<std::uint64_t>(file_.data());
    const std::size_t rest = file_.size() - sizeof length;
    require(length <= kMaxHeaderBytes,
            "'{}' is not a safetensors file: its header would have {} bytes (at most {})", path_,
            length, kMaxHeaderBytes);
    require(length <= rest, "'{}' is cut short: its header has {} bytes, the file only {} more",
            path_, length, rest);
    const auto begin = sizeof length + static_cast<std::size_t>(length);
    data_ = file_.bytes().subspan(begin);
    return {reinterpret_cast<const char*>(file_.data()) + sizeof length,
            static_cast<std::size_t>(length)};
  }

  void parse_metadata(element value, std::map<std::string, std::string>& metadata) const {
    object entries;
    require(value.get(entries) == simdjson::SUCCESS, "'{}': {} is not a JSON object", path_,
            kMetadataKey);
    for (const auto [key, item] : entries) {
      std::string_view text;
      require(item.get(text) == simdjson::SUCCESS, "'{}': {}, key '{}' is not a text", path_,
              kMetadataKey, key);
      metadata.emplace(std::string(key), std::string(text));
    }
  }

  void parse_tensor(const std::string& name, element value) {
    object fields;
    require(value.get(fields) == simdjson::SUCCESS, "'{}': tensor '{}' is not a JSON object", path_,
            name);
    std::optional<element> dtype, shape, offsets;
    for (const auto [key, field] : fields) {
      auto* target = key == "dtype"          ? &dtype
                     : key == "shape"        ? &shape
                     : key == "data_offsets" ? &offsets
                                             : nullptr;
      if (target == nullptr) continue;
      require(!*target, "'{}': tensor '{}' has two keys '{}'", path_, name, key);
      *target = field;
    }
    require(dtype && shape && offsets, "'{}': tensor '{}' lacks dtype, shape or data_offsets",
            path_, name);
    SafetensorsEntry entry;
    entry.name = name;
    entry.file = index_;
    entry.dtype = tensor_dtype(name, *dtype);
    entry.shape = tensor_shape(name, *shape, size_of(entry.dtype));
    entry.data = tensor_data(entry, *offsets);
    tensors_.push_back(std::move(entry));
  }

  DType tensor_dtype(const std::string& name, element value) const {
    std::string_view text;
    require(value.get(text) == simdjson::SUCCESS, "'{}': tensor '{}': dtype is not a text", path_,
            name);
    const auto dtype = parse_dtype(text);
    require(dtype.has_value(), "'{}': tensor '{}' has element type {}, which neox does not read",
            path_, name, text);
    return *dtype;
  }

  Shape tensor_shape(const std::string& name, element value, std::size_t element_bytes) const {
    simdjson::dom::array extents;
    require(value.get(extents) == simdjson::SUCCESS, "'{}': tensor '{}': shape is not a list",
            path_, name);
    Shape shape;
    std::int64_t bytes = static_cast<std::int64_t>(element_bytes);
    for (const element item : extents) {
      std::int64_t extent = 0;
      require(item.get(extent) == simdjson::SUCCESS && extent >= 0,
              "'{}': tensor '{}': its shape holds something other than lengths", path_, name);
      require(shape.rank() < Shape::kMaxRank, "'{}': tensor '{}' has more than {} axes", path_,
              name, Shape::kMaxRank);
      require(!__builtin_mul_overflow(bytes, extent, &bytes), "'{}': tensor '{}' is absurdly large",
              path_, name);
      shape.push_back(extent);
    }
    return shape;
  }

  std::span<const std::byte> tensor_data(const SafetensorsEntry& entry, element value) const {
    simdjson::dom::array pair;
    std::uint64_t begin = 0, end = 0;
    const bool read = value.get(pair) == simdjson::SUCCESS && pair.size() == 2 &&
                      pair.at(0).get(begin) == simdjson::SUCCESS &&
                      pair.at(1).get(end) == simdjson::SUCCESS;
    require(read && begin <= end, "'{}': tensor '{}': data_offsets are not two rising numbers",
            path_, entry.name);
    require(end <= data_.size(),
            "'{}': tensor '{}' ends at byte {} of the data, but the file holds only {}: it is cut "
            "short or damaged",
            path_, entry.name, end, data_.size());
    const auto need = static_cast<std::uint64_t>(entry.shape.numel()) * size_of(entry.dtype);
    require(end - begin == need, "'{}': tensor '{}' {} {} needs {} bytes, its data_offsets span {}",
            path_, entry.name, name_of(entry.dtype), entry.shape.str(), need, end - begin);
    return data_.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(need));
  }

  // The format asks that the tensors cover the data without overlaps, holes or a rest.
  void check_places() {
    std::vector<const SafetensorsEntry*> order;
    for (const auto& tensor : tensors_) order.push_back(&tensor);
    std::sort(order.begin(), order.end(), [](const auto* a, const auto* b) {
      return std::pair(a->data.data(), a->data.size()) < std::pair(b->data.data(), b->data.size());
    });
    const std::byte* at = data_.data();
    const SafetensorsEntry* before = nullptr;
    for (const auto* tensor : order) {
      require(tensor->data.data() >= at, "'{}': tensors '{}' and '{}' overlap", path_,
              before == nullptr ? "" : before->name, tensor->name);
      require(tensor->data.data() == at, "'{}': {} bytes before tensor '{}' belong to no tensor",
              path_, tensor->data.data() - at, tensor->name);
      at += tensor->data.size();
      before = tensor;
    }
    const auto rest = data_.data() + data_.size() - at;
    require(rest == 0, "'{}' has {} bytes after its last tensor: it is damaged", path_, rest);
  }

  const std::string& path_;
  const MappedFile& file_;
  std::size_t index_;
  std::span<const std::byte> data_;
  std::vector<SafetensorsEntry> tensors_;
};

bool is_index(const std::string& path) {
  return path.ends_with(".json");
}

/// The file that `path` stands for: itself, or the one inside the folder.
std::string find_file(const std::string& path) {
  std::error_code error;
  if (!fs::is_directory(path, error)) return path;
  for (const char* name : {"model.safetensors.index.json", "model.safetensors"}) {
    const auto candidate = fs::path(path) / name;
    if (fs::exists(candidate, error)) return candidate.string();
  }
  fail("'{}' holds neither model.safetensors.index.json nor model.safetensors", path);
}

/// "weight_map" of an index: tensor -> file beside the index.
std::map<std::string, std::string> read_index(const std::string& path) {
  const MappedFile file(path);
  const std::string_view text(reinterpret_cast<const char*>(file.data()), file.size());
  simdjson::dom::parser parser;
  const element root = parse_json(parser, text, fmt::format("the index '{}'", path));
  object map;
  require(root["weight_map"].get(map) == simdjson::SUCCESS, "the index '{}' has no weight_map",
          path);
  std::map<std::string, std::string> shards;
  for (const auto [name, value] : map) {
    std::string_view shard;
    require(value.get(shard) == simdjson::SUCCESS && !shard.empty() && shard != "." &&
                shard != ".." && shard.find('/') == std::string_view::npos &&
                shard.find('\0') == std::string_view::npos,
            "the index '{}': tensor '{}' must name a file beside the index", path, name);
    require(shards.emplace(std::string(name), std::string(shard)).second,
            "the index '{}' names tensor '{}' twice", path, name);
  }
  require(!shards.empty(), "the index '{}' names no tensors", path);
  return shards;
}

// ---- copying boxes out of the map -----------------------------------------------------------

template <class F>
void visit_any_float(DType dtype, F&& f) {
  if (dtype == DType::f64) return f(double{});
  visit_float(dtype, std::forward<F>(f));
}

void convert(const std::byte* from, DType from_type, std::byte* to, DType to_type,
             std::int64_t count) {
  const auto elements = static_cast<std::size_t>(count);
  if (elements == 0) return;
  if (from_type == to_type) {
    std::memcpy(to, from, elements * size_of(to_type));
    return;
  }
  visit_any_float(from_type, [&](auto source) {
    visit_any_float(to_type, [&](auto target) {
      using Source = decltype(source);
      using Target = decltype(target);
      using Wide = std::conditional_t<std::is_same_v<Source, double>, double, float>;
      for (std::size_t i = 0; i < elements; ++i) {
        const auto wide = static_cast<Wide>(load_unaligned<Source>(from + i * sizeof(Source)));
        Target value;
        if constexpr (std::is_floating_point_v<Target>) {
          value = static_cast<Target>(wide);
        } else {
          value = Target(static_cast<float>(wide));
        }
        std::memcpy(to + i * sizeof(Target), &value, sizeof value);
      }
    });
  });
}

/// Copies box `slice` of the row-major tensor in runs that are contiguous in the file.
void copy_box(const SafetensorsEntry& entry, const Slice& slice, Tensor out) {
  const int rank = entry.shape.rank();
  int axis = rank - 1;  // runs reach from this axis to the last
  while (axis > 0 && slice.extent[axis] == entry.shape[axis]) --axis;
  std::int64_t run = 1;
  for (int i = std::max(axis, 0); i < rank; ++i) run *= slice.extent[i];
  if (out.numel() == 0) return;
  const std::int64_t runs = out.numel() / run;
  for (std::int64_t r = 0; r < runs; ++r) {
    std::int64_t rest = r, offset = 0, stride = 1;
    for (int i = rank - 1; i >= 0; --i) {
      std::int64_t at = slice.offset[i];
      if (i < axis) {
        at += rest % slice.extent[i];
        rest /= slice.extent[i];
      }
      offset += at * stride;
      stride *= entry.shape[i];
    }
    convert(entry.data.data() + static_cast<std::size_t>(offset) * size_of(entry.dtype),
            entry.dtype, out.data + static_cast<std::size_t>(r * run) * size_of(out.dtype),
            out.dtype, run);
  }
}

bool is_inside(const Slice& slice, const Shape& shape) {
  if (slice.offset.rank() != shape.rank() || slice.extent.rank() != shape.rank()) return false;
  for (int i = 0; i < shape.rank(); ++i) {
    const std::int64_t offset = slice.offset[i], extent = slice.extent[i];
    if (offset < 0 || extent < 0 || offset > shape[i] || extent > shape[i] - offset) return false;
  }
  return true;
}

}  // namespace

struct SafetensorsReader::Impl {
  std::string path;  // as opened, for messages
  std::vector<std::string> files;
  std::vector<MappedFile> maps;
  std::vector<SafetensorsEntry> entries;
  std::map<std::string, std::string> metadata;

  void open_file(const std::string& file) {
    files.push_back(file);
    maps.emplace_back(file);
    HeaderParser(file, maps.back(), files.size() - 1).parse(entries, metadata);
  }

  void open_shards(const std::string& index) {
    const auto shards = read_index(index);
    std::set<std::string> names;
    for (const auto& [tensor, shard] : shards) names.insert(shard);
    for (const auto& name : names) open_file((fs::path(index).parent_path() / name).string());
    std::map<std::string, std::string> found;
    for (const auto& entry : entries) {
      const auto shard = fs::path(files[entry.file]).filename().string();
      const auto [at, fresh] = found.emplace(entry.name, shard);
      require(fresh, "tensor '{}' is both in '{}' and in '{}' ('{}')", entry.name, at->second,
              shard, index);
    }
    for (const auto& [tensor, shard] : shards) {
      const auto at = found.find(tensor);
      require(at != found.end() && at->second == shard,
              "the index '{}' says that tensor '{}' is in '{}', but it is {}", index, tensor, shard,
              at == found.end() ? "in none of the files" : fmt::format("in '{}'", at->second));
    }
  }
};

SafetensorsReader::SafetensorsReader(const std::string& path) : impl_(std::make_unique<Impl>()) {
  impl_->path = find_file(path);
  if (is_index(impl_->path)) {
    impl_->open_shards(impl_->path);
  } else {
    impl_->open_file(impl_->path);
  }
  std::sort(impl_->entries.begin(), impl_->entries.end(),
            [](const auto& a, const auto& b) { return a.name < b.name; });
}

SafetensorsReader::~SafetensorsReader() = default;
SafetensorsReader::SafetensorsReader(SafetensorsReader&&) noexcept = default;
SafetensorsReader& SafetensorsReader::operator=(SafetensorsReader&&) noexcept = default;

std::span<const SafetensorsEntry> SafetensorsReader::entries() const {
  return impl_->entries;
}

const std::vector<std::string>& SafetensorsReader::files() const {
  return impl_->files;
}

const std::map<std::string, std::string>& SafetensorsReader::metadata() const {
  return impl_->metadata;
}

const SafetensorsEntry* SafetensorsReader::find(std::string_view name) const {
  const auto& entries = impl_->entries;
  const auto at = std::lower_bound(entries.begin(), entries.end(), name,
                                   [](const auto& entry, auto key) { return entry.name < key; });
  return at != entries.end() && at->name == name ? &*at : nullptr;
}

const SafetensorsEntry& SafetensorsReader::at(std::string_view name) const {
  const auto* entry = find(name);
  if (entry != nullptr) return *entry;
  const auto& entries = impl_->entries;
  fail("'{}' has no tensor '{}' among its {}{}", impl_->path, name, entries.size(),
       entries.empty() ? "" : fmt::format(", the first of which is '{}'", entries.front().name));
}

void SafetensorsReader::read(std::string_view name, const Slice& slice, Tensor out) const {
  const SafetensorsEntry& entry = at(name);
  const std::string& file = impl_->files[entry.file];
  require(is_inside(slice, entry.shape), "'{}': the part {} + {} is outside of tensor '{}' {}",
          file, slice.offset.str(), slice.extent.str(), name, entry.shape.str());
  require(out.shape == slice.extent, "'{}': a part {} of tensor '{}' does not fit into {}", file,
          slice.extent.str(), name, out.shape.str());
  require(out.device.is_cpu(), "'{}': tensor '{}' can only be read into host memory", file, name);
  require(entry.dtype == out.dtype || (is_float(entry.dtype) && is_float(out.dtype)),
          "'{}': tensor '{}' holds {}, not {}", file, name, name_of(entry.dtype),
          name_of(out.dtype));
  copy_box(entry, slice, out);
}

void SafetensorsReader::read(std::string_view name, Tensor out) const {
  const SafetensorsEntry& entry = at(name);
  require(out.shape == entry.shape, "'{}': tensor '{}' has shape {}, expected {}",
          impl_->files[entry.file], name, entry.shape.str(), out.shape.str());
  read(name, Slice::whole(entry.shape), out);
}

void SafetensorsReader::release(std::string_view name) const {
  const std::span<const std::byte> data = at(name).data;
  const auto page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
  // Whole pages inside the tensor; its neighbours' stay.
  const auto first = reinterpret_cast<std::uintptr_t>(data.data());
  const std::uintptr_t begin = (first + page - 1) / page * page;
  const std::uintptr_t end = (first + data.size()) / page * page;
  if (begin >= end) return;
  // Advice: a system that does not take it only keeps the pages.
  static_cast<void>(madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED));
}

std::vector<float> SafetensorsReader::read_f32(std::string_view name, const Shape& shape) const {
  std::vector<float> values(static_cast<std::size_t>(shape.numel()));
  read(name, Tensor(reinterpret_cast<std::byte*>(values.data()), shape, DType::f32, Device{}));
  return values;
}

}  // namespace neox
