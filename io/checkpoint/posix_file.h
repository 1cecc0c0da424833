#pragma once
// Files through system calls whose every failure becomes an Error with call, path and errno text.

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

namespace neox {

class PosixFile {
 public:
  PosixFile() = default;
  /// open(2) with O_CLOEXEC.
  PosixFile(std::string path, int flags);
  /// A new file of a unique name in memory (/dev/shm) or, where there is none or `bytes` do not
  /// fit, in the temporary directory. The caller removes it.
  static PosixFile scratch(std::int64_t bytes);
  ~PosixFile();
  PosixFile(PosixFile&& other) noexcept;
  PosixFile& operator=(PosixFile&& other) noexcept;
  PosixFile(const PosixFile&) = delete;
  PosixFile& operator=(const PosixFile&) = delete;

  const std::string& path() const { return path_; }
  int descriptor() const { return descriptor_; }
  std::int64_t size() const;
  /// All bytes, however many calls it takes; at most 16 MiB per call.
  void write(const void* data, std::int64_t bytes, std::int64_t offset) const;
  /// Exactly `bytes`: a file that ends before is an Error. A failure that may pass (EIO, EAGAIN,
  /// ETIMEDOUT) is one only when three more attempts, 0.6 s in all, fail too.
  void read(void* data, std::int64_t bytes, std::int64_t offset) const;
  /// Writes what `from` holds, apart from its holes, at the same offsets of this file.
  void copy_from(const PosixFile& from) const;
  void resize(std::int64_t bytes) const;
  void sync() const;
  /// Reserves disk space for the first `bytes`, where the file system can (no fallback that
  /// writes).
  void reserve(std::int64_t bytes) const;
  /// Takes the exclusive lock without waiting; false when another process has it. True on file
  /// systems without locks.
  bool try_lock() const;
  /// Reports a failing close(2), which the destructor can't.
  void close();

 private:
  std::string path_;
  int descriptor_ = -1;
};

void rename_file(const std::string& from, const std::string& to);
/// A missing file is fine.
void remove_file(const std::string& path);
/// With all parents; an existing one is fine.
void create_directories(const std::string& path);

struct DiskSpace {
  std::int64_t bytes = 0;  ///< available to this user
  bool no_inodes = false;  ///< no file can be made, whatever the bytes
};
/// Of the file system that holds `path`; nothing when it does not say.
std::optional<DiskSpace> disk_space(const std::string& path);
/// Makes renames and removals in the directory durable.
void sync_directory(const std::string& path);

namespace testing_hooks {
/// Fault injection: asked before each system call above, and before its repetitions, with its name,
/// on the calling thread. A positive answer is returned as that call's errno; of a pwrite or pread,
/// the answer -n moves at most n bytes; 0 lets it go. Null outside tests.
extern std::atomic<int (*)(const char* call, const std::string& path)> fail_call;
}  // namespace testing_hooks

}  // namespace neox
