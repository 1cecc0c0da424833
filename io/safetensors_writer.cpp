#include <algorithm>
#include <cstring>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "core/base/error.h"
#include "io/data/partial_file.h"
#include "io/safetensors.h"

namespace neox {
namespace {

std::string_view dtype_text(DType dtype) {
  switch (dtype) {
    case DType::f64:
      return "F64";
    case DType::f32:
      return "F32";
    case DType::f16:
      return "F16";
    case DType::bf16:
      return "BF16";
    case DType::i64:
      return "I64";
    case DType::i32:
      return "I32";
    case DType::i16:
      return "I16";
    case DType::i8:
      return "I8";
    case DType::u64:
      return "U64";
    case DType::u32:
      return "U32";
    case DType::u16:
      return "U16";
    case DType::u8:
      return "U8";
  }
  fail("safetensors has no element type {}", name_of(dtype));
}

std::size_t bytes_of(const SafetensorsSpec& spec) {
  return static_cast<std::size_t>(spec.shape.numel()) * size_of(spec.dtype);
}

/// Length and JSON, padded so that the data begin at a multiple of 8 bytes.
std::string make_header(const std::string& path, const std::vector<SafetensorsSpec>& tensors,
                        const std::map<std::string, std::string>& metadata) {
  nlohmann::ordered_json root = nlohmann::ordered_json::object();
  if (!metadata.empty()) root["__metadata__"] = metadata;
  std::size_t offset = 0;
  for (const auto& tensor : tensors) {
    auto shape = nlohmann::ordered_json::array();
    for (int i = 0; i < tensor.shape.rank(); ++i) shape.push_back(tensor.shape[i]);
    const std::size_t end = offset + bytes_of(tensor);
    require(!root.contains(tensor.name) && tensor.name != "__metadata__",
            "'{}': the name '{}' is taken", path, tensor.name);
    root[tensor.name] = {
        {"dtype", dtype_text(tensor.dtype)}, {"shape", shape}, {"data_offsets", {offset, end}}};
    offset = end;
  }
  std::string json;
  try {
    json = root.dump();
  } catch (const nlohmann::json::exception& e) {
    fail("'{}': a tensor's name or the metadata are not UTF-8: {}", path, e.what());
  }
  json.resize((json.size() + 7) / 8 * 8, ' ');
  const std::uint64_t length = json.size();
  std::string header(sizeof length, '\0');
  std::memcpy(header.data(), &length, sizeof length);
  return header + json;
}

}  // namespace

struct SafetensorsWriter::Impl {
  std::string path;
  std::vector<SafetensorsSpec> tensors;
  std::optional<PartialFile> file;
  std::size_t next = 0;
};

SafetensorsWriter::SafetensorsWriter(const std::string& path, std::vector<SafetensorsSpec> tensors,
                                     const std::map<std::string, std::string>& metadata)
    : impl_(std::make_unique<Impl>()) {
  std::sort(tensors.begin(), tensors.end(), [](const auto& a, const auto& b) {
    const std::size_t size_a = size_of(a.dtype), size_b = size_of(b.dtype);
    return size_a != size_b ? size_a > size_b : a.name < b.name;
  });
  const std::string header = make_header(path, tensors, metadata);
  impl_->path = path;
  impl_->tensors = std::move(tensors);
  impl_->file = PartialFile::try_create(path);
  require(impl_->file.has_value(), "another process is writing '{}'", path);
  impl_->file->write(std::as_bytes(std::span(header)));
}

SafetensorsWriter::~SafetensorsWriter() = default;

std::span<const SafetensorsSpec> SafetensorsWriter::order() const {
  return impl_->tensors;
}

void SafetensorsWriter::append(std::string_view name, ConstTensor tensor) {
  require(impl_->next < impl_->tensors.size(), "'{}': tensor '{}' was not announced", impl_->path,
          name);
  const SafetensorsSpec& spec = impl_->tensors[impl_->next];
  require(spec.name == name, "'{}': tensor '{}' came where '{}' was due", impl_->path, name,
          spec.name);
  require(spec.dtype == tensor.dtype && spec.shape == tensor.shape,
          "'{}': tensor '{}' was announced as {} {}, but is {} {}", impl_->path, name,
          name_of(spec.dtype), spec.shape.str(), name_of(tensor.dtype), tensor.shape.str());
  require(tensor.device.is_cpu(), "'{}': tensor '{}' is not in host memory", impl_->path, name);
  impl_->file->write({tensor.data, tensor.bytes()});
  ++impl_->next;
}

void SafetensorsWriter::commit() {
  require(impl_->next == impl_->tensors.size(), "'{}': {} of {} tensors were written", impl_->path,
          impl_->next, impl_->tensors.size());
  impl_->file->publish();
}

void write_safetensors(const std::string& path, std::span<const NamedTensor> tensors,
                       const std::map<std::string, std::string>& metadata) {
  std::vector<SafetensorsSpec> specs;
  std::map<std::string_view, ConstTensor> by_name;
  for (const auto& [name, tensor] : tensors) {
    specs.push_back({name, tensor.dtype, tensor.shape});
    by_name.emplace(name, tensor);
  }
  SafetensorsWriter writer(path, std::move(specs), metadata);
  for (const auto& spec : writer.order()) writer.append(spec.name, by_name.at(spec.name));
  writer.commit();
}

}  // namespace neox
