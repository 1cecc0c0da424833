#pragma once

#include <cstddef>
#include <cstring>
#include <span>
#include <string>

namespace neox {

/// A file mapped read-only. Move-only; an empty file gives an empty view.
class MappedFile {
 public:
  MappedFile() = default;
  /// Throws Error naming the file when it is missing, not a regular file or can't be read.
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::byte* data() const { return data_; }
  std::size_t size() const { return size_; }
  std::span<const std::byte> bytes() const { return {data_, size_}; }
  /// Asks the system to read ahead strongly (front-to-back reading is coming).
  void expect_sequential() const;

 private:
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

/// A T at any address.
template <class T>
T load_unaligned(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

}  // namespace neox
