#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <utility>

namespace neox {

/// A file in the making: <path>.partial, locked, so that one process at a time makes it, and
/// renamed to <path> when it is complete and durable. What a crashed process left is taken over.
class PartialFile {
 public:
  /// Creates (or takes over and empties) <path>.partial; nothing when another process holds it.
  /// Where the file system knows no locks, the name is made unique instead. Throws Error naming the
  /// file.
  static std::optional<PartialFile> try_create(const std::string& path);
  /// Removes the file unless it was published.
  ~PartialFile();
  PartialFile(PartialFile&& other) noexcept;
  PartialFile& operator=(PartialFile&& other) noexcept;

  /// Appends. Throws Error with the system's reason (no space left, …).
  void write(std::span<const std::byte> bytes);
  /// Makes the contents durable.
  void sync();
  /// Syncs, renames to `path` and makes the name durable.
  void publish();

 private:
  PartialFile(std::string path, std::string partial, int fd)
      : path_(std::move(path)), partial_(std::move(partial)), fd_(fd) {}

  std::string path_;
  std::string partial_;
  int fd_ = -1;
};

}  // namespace neox
