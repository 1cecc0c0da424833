#pragma once
// Arrays that take long to build are kept in files. A file's key is a text that names everything
// its arrays depend on; the text is stored in the file and compared in full, so a stale or foreign
// file is never used. Any number of processes may race for the same key: one builds, the others
// wait and read.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "io/data/mapped_file.h"

namespace neox {

struct ArraySpec {
  std::size_t element_size = 0;  // bytes
  std::int64_t count = 0;
};

/// Arrays in one block of memory, either built here or mapped from a cache file (then shared by all
/// processes of the machine). Move-only.
class ArrayImage {
 public:
  ArrayImage() = default;
  /// Array i. T must have the element size asked for.
  template <class T>
  std::span<const T> array(std::size_t i) const {
    const Range& range = ranges_[i];
    return {reinterpret_cast<const T*>(base_ + range.offset), range.bytes / sizeof(T)};
  }
  std::size_t element_size(std::size_t i) const { return ranges_[i].element_size; }
  /// True when the arrays are mapped from a file.
  bool from_file() const { return file_.data() != nullptr; }

 private:
  struct Range {
    std::size_t offset = 0, bytes = 0, element_size = 0;
  };
  friend struct ArrayImageAccess;  // load_or_build
  std::vector<Range> ranges_;
  std::unique_ptr<std::byte[]> memory_;
  MappedFile file_;
  const std::byte* base_ = nullptr;
};

struct CacheRequest {
  std::string directory;  // "" builds in memory
  std::string name;       // start of the file name, for people
  std::string key;        // everything the arrays depend on
  std::vector<ArraySpec> arrays;
};

/// Fills the arrays, zero at first.
using ArrayBuilder = std::function<void(std::span<const std::span<std::byte>>)>;

/// The cached arrays, or, when there are none or the file is damaged, those that `build` makes,
/// which are then published atomically. When the directory can't be written (or is full) it warns
/// and returns the arrays in memory. Throws Error only when `build` does or memory runs out.
ArrayImage load_or_build(const CacheRequest& request, const ArrayBuilder& build);

/// File of a request: <directory>/<name>_<16 hex digits of the key's hash>.index
std::string cache_path(const CacheRequest& request);

/// Position-weighted sum of 64-bit words: sum of (word_i + 1) * (splitmix64(i) | 1) mod 2^64; the
/// last word is padded with zeros and the length is mixed in.
std::uint64_t checksum64(std::span<const std::byte> bytes);

}  // namespace neox
