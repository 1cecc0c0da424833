#pragma once
// Hugging Face safetensors files (https://github.com/huggingface/safetensors#format): u64 header
// length, JSON header, tensor data.

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/dtype.h"
#include "core/tensor/shard.h"

namespace neox {

/// One tensor of an opened checkpoint. BOOL is read as u8.
struct SafetensorsEntry {
  std::string name;
  DType dtype = DType::f32;
  Shape shape;
  std::span<const std::byte>
      data;              ///< little-endian, row-major, any alignment; lives as the reader
  std::size_t file = 0;  ///< index into SafetensorsReader::files()
};

/// Reads one file or several shards through memory maps. Everything in headers and index is checked
/// when opening, so that no later read can leave the file.
class SafetensorsReader {
 public:
  /// `path`: a .safetensors file, an index (*.safetensors.index.json), or a folder that holds
  /// model.safetensors.index.json or model.safetensors. Throws Error naming file and tensor on
  /// anything malformed: header length, JSON, types, shapes, offsets that overlap, leave holes or
  /// pass the file's end, names given twice, index and shards that disagree.
  explicit SafetensorsReader(const std::string& path);
  ~SafetensorsReader();
  SafetensorsReader(SafetensorsReader&&) noexcept;
  SafetensorsReader& operator=(SafetensorsReader&&) noexcept;

  /// In order of names.
  std::span<const SafetensorsEntry> entries() const;
  const SafetensorsEntry* find(std::string_view name) const;
  /// Throws Error naming the file when there is no such tensor.
  const SafetensorsEntry& at(std::string_view name) const;
  const std::vector<std::string>& files() const;
  /// "__metadata__" of all files together.
  const std::map<std::string, std::string>& metadata() const;

  /// Copies box `slice` of tensor `name` into `out` (host memory, shape slice.extent, contiguous).
  /// Float types are converted (to nearest even); integers must match. Throws Error.
  void read(std::string_view name, const Slice& slice, Tensor out) const;
  /// Copies the whole tensor; out.shape must be the entry's.
  void read(std::string_view name, Tensor out) const;
  /// All values as f32, row-major; throws Error unless the tensor is a float one of this shape.
  std::vector<float> read_f32(std::string_view name, const Shape& shape) const;
  /// The tensor's pages leave this process's memory until it is read again: a model may be larger.
  void release(std::string_view name) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// Name, type and shape of a tensor to be written.
struct SafetensorsSpec {
  std::string name;
  DType dtype = DType::f32;
  Shape shape;
};

/// Writes one file piece by piece, so that a model need not be in memory at once. The file appears
/// under its name, complete and durable, with commit(); without it nothing is left.
class SafetensorsWriter {
 public:
  /// Lays the file out: larger element types first, then by name, so that every tensor is aligned.
  /// Throws Error on duplicate names or a file that can't be created.
  SafetensorsWriter(const std::string& path, std::vector<SafetensorsSpec> tensors,
                    const std::map<std::string, std::string>& metadata = {{"format", "pt"}});
  ~SafetensorsWriter();
  SafetensorsWriter(const SafetensorsWriter&) = delete;
  SafetensorsWriter& operator=(const SafetensorsWriter&) = delete;

  /// The order in which append() takes the tensors.
  std::span<const SafetensorsSpec> order() const;
  /// The next tensor's values: host memory, type and shape as announced. Throws Error naming the
  /// tensor.
  void append(std::string_view name, ConstTensor tensor);
  /// Throws Error when tensors are missing or the file can't be finished.
  void commit();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// A named tensor in host memory.
struct NamedTensor {
  std::string name;
  ConstTensor tensor;
};
/// Writes all at once; atomic.
void write_safetensors(const std::string& path, std::span<const NamedTensor> tensors,
                       const std::map<std::string, std::string>& metadata = {{"format", "pt"}});

}  // namespace neox
