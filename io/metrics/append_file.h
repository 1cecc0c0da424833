#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace neox {

/// A file that grows by whole records: a record that can't be written entirely (disk full) leaves
/// no trace, so the file stays readable and the next record may succeed. Move-only.
class AppendFile {
 public:
  enum class Mode : std::uint8_t {
    append,     ///< opens or creates, keeps what is there
    create_new  ///< fails when the file exists
  };
  /// Throws Error naming the file.
  AppendFile(std::string path, Mode mode);
  ~AppendFile();
  AppendFile(AppendFile&& other) noexcept;
  AppendFile& operator=(AppendFile&&) = delete;

  /// Writes all of `record` or, throwing Error with the system's reason, nothing.
  void append(std::string_view record);
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  int fd_ = -1;
};

/// Creates `directory` and its parents. Throws Error naming it and the reason.
void create_directories_for_writing(const std::string& directory);

}  // namespace neox
