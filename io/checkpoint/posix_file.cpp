#include "io/checkpoint/posix_file.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <fcntl.h>
#include <filesystem>
#include <sys/file.h>
#include <sys/stat.h>
#include <system_error>
#include <unistd.h>
#include <utility>
#include <vector>

#include "comm/activity.h"
#include "core/base/error.h"

namespace neox {

std::atomic<int (*)(const char*, const std::string&)> testing_hooks::fail_call = nullptr;

namespace {

constexpr std::int64_t kPieceBytes = std::int64_t{16} << 20;

[[noreturn]] void fail_call_with(const char* call, const std::string& path, int code) {
  fail("{} of {}: {}", call, path, std::generic_category().message(code));
}

// Runs a system call again after EINTR; returns its result, or -1 with errno set.
template <class F>
auto system_call(const char* call, const std::string& path, F f) -> decltype(f()) {
  if (const auto fails = testing_hooks::fail_call.load()) {
    if (const int code = fails(call, path); code != 0) {
      errno = code;
      return -1;
    }
  }
  decltype(f()) result;
  do {
    result = f();
  } while (result == -1 && errno == EINTR);
  return result;
}

}  // namespace

PosixFile::PosixFile(std::string path, int flags) : path_(std::move(path)) {
  descriptor_ =
      system_call("open", path_, [&] { return ::open(path_.c_str(), flags | O_CLOEXEC, 0666); });
  if (descriptor_ == -1) fail_call_with("open", path_, errno);
}

PosixFile PosixFile::scratch() {
  std::error_code ignored;
  const bool in_memory = ::access("/dev/shm", W_OK) == 0;
  const std::string directory =
      in_memory ? "/dev/shm" : std::filesystem::temp_directory_path(ignored).string();
  PosixFile file;
  file.path_ = directory + "/neox-layout-XXXXXX";
  file.descriptor_ =
      system_call("mkstemp", file.path_, [&] { return ::mkostemp(file.path_.data(), O_CLOEXEC); });
  if (file.descriptor_ == -1) fail_call_with("mkstemp", file.path_, errno);
  return file;
}

PosixFile::~PosixFile() {
  if (descriptor_ != -1) ::close(descriptor_);
}

PosixFile::PosixFile(PosixFile&& other) noexcept
    : path_(std::move(other.path_)), descriptor_(std::exchange(other.descriptor_, -1)) {}

PosixFile& PosixFile::operator=(PosixFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(descriptor_, other.descriptor_);
  return *this;
}

std::int64_t PosixFile::size() const {
  struct stat info {};
  if (system_call("fstat", path_, [&] { return ::fstat(descriptor_, &info); }) == -1) {
    fail_call_with("fstat", path_, errno);
  }
  return info.st_size;
}

void PosixFile::write(const void* data, std::int64_t bytes, std::int64_t offset) const {
  const auto* from = static_cast<const std::byte*>(data);
  while (bytes > 0) {
    Activity::tick();  // a slow disk is not a hang
    const auto piece = static_cast<std::size_t>(std::min(bytes, kPieceBytes));
    const ssize_t n =
        system_call("pwrite", path_, [&] { return ::pwrite(descriptor_, from, piece, offset); });
    if (n == -1) fail_call_with("pwrite", path_, errno);
    if (n == 0) fail_call_with("pwrite", path_, ENOSPC);
    from += n;
    bytes -= n;
    offset += n;
  }
}

void PosixFile::read(void* data, std::int64_t bytes, std::int64_t offset) const {
  auto* to = static_cast<std::byte*>(data);
  while (bytes > 0) {
    Activity::tick();  // a slow disk is not a hang
    const auto piece = static_cast<std::size_t>(std::min(bytes, kPieceBytes));
    const ssize_t n =
        system_call("pread", path_, [&] { return ::pread(descriptor_, to, piece, offset); });
    if (n == -1) fail_call_with("pread", path_, errno);
    require(n > 0, "{} ends at byte {}, before the {} bytes expected there: it was cut off", path_,
            offset, bytes);
    to += n;
    bytes -= n;
    offset += n;
  }
}

void PosixFile::copy_from(const PosixFile& from) const {
  std::vector<std::byte> buffer(std::size_t{1} << 20);
  const std::int64_t size = from.size();
  for (std::int64_t at = 0; at < size;) {
    const std::int64_t begin = ::lseek(from.descriptor_, at, SEEK_DATA);
    if (begin == -1 && errno == ENXIO) return;  // nothing but a hole follows
    if (begin == -1) fail_call_with("lseek", from.path_, errno);
    const std::int64_t end = ::lseek(from.descriptor_, begin, SEEK_HOLE);
    if (end == -1) fail_call_with("lseek", from.path_, errno);
    for (at = begin; at < end;) {
      const std::int64_t n = std::min(end - at, static_cast<std::int64_t>(buffer.size()));
      from.read(buffer.data(), n, at);
      write(buffer.data(), n, at);
      at += n;
    }
  }
}

void PosixFile::resize(std::int64_t bytes) const {
  if (system_call("ftruncate", path_, [&] { return ::ftruncate(descriptor_, bytes); }) == -1) {
    fail_call_with("ftruncate", path_, errno);
  }
}

void PosixFile::sync() const {
  if (system_call("fsync", path_, [&] { return ::fsync(descriptor_); }) == -1) {
    fail_call_with("fsync", path_, errno);
  }
}

void PosixFile::reserve(std::int64_t bytes) const {
  const int result =
      system_call("fallocate", path_, [&] { return ::fallocate(descriptor_, 0, 0, bytes); });
  if (result == -1 && errno != EOPNOTSUPP && errno != ENOSYS) {
    fail_call_with("fallocate", path_, errno);
  }
}

bool PosixFile::try_lock() const {
  return ::flock(descriptor_, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK;
}

void PosixFile::close() {
  const int descriptor = std::exchange(descriptor_, -1);
  // Never repeated after EINTR: Linux has closed the descriptor then.
  if (descriptor != -1 && ::close(descriptor) == -1 && errno != EINTR) {
    fail_call_with("close", path_, errno);
  }
}

void rename_file(const std::string& from, const std::string& to) {
  const int result =
      system_call("rename", to, [&] { return std::rename(from.c_str(), to.c_str()); });
  if (result != 0) fail_call_with("rename", to, errno);
}

void remove_file(const std::string& path) {
  if (::unlink(path.c_str()) == -1 && errno != ENOENT) fail_call_with("unlink", path, errno);
}

void sync_directory(const std::string& path) {
  const PosixFile directory(path, O_RDONLY | O_DIRECTORY);
  const int result = system_call("fsync", path, [&] { return ::fsync(directory.descriptor()); });
  // Some network and user-space file systems cannot sync a directory and say so with EINVAL.
  if (result == -1 && errno != EINVAL) fail_call_with("fsync", path, errno);
}

}  // namespace neox
