#include "io/checkpoint/posix_file.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fcntl.h>
#include <filesystem>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <system_error>
#include <thread>
#include <unistd.h>
#include <utility>
#include <vector>

#include "comm/activity.h"
#include "core/base/error.h"
#include "core/base/format.h"

namespace neox {

std::atomic<int (*)(const char*, const std::string&)> testing_hooks::fail_call = nullptr;

namespace {

constexpr std::int64_t kPieceBytes = std::int64_t{16} << 20;

// What the user can do about it; empty when there is nothing to say.
const char* advice(int code) {
  switch (code) {
    case ENOSPC:
      return " (the disk or its inodes are full: free some)";
    case EDQUOT:
      return " (free some, or have the quota raised)";
    case EIO:
    case ESTALE:
      return " (the disk or its connection has failed: see dmesg on that host)";
    default:
      return "";
  }
}

[[noreturn]] void fail_call_with(const char* call, const std::string& path, int code) {
  fail("{} of {}: {}{}", call, path, std::generic_category().message(code), advice(code));
}

// The injected fault of a test: errno, minus the most bytes that the call may move, or 0.
int injected(const char* call, const std::string& path) {
  const auto fails = testing_hooks::fail_call.load();
  return fails == nullptr ? 0 : fails(call, path);
}

// Runs a system call again after EINTR; returns its result, or -1 with errno set.
template <class F>
auto system_call(const char* call, const std::string& path, F f) -> decltype(f()) {
  decltype(f()) result;
  do {
    const int fault = injected(call, path);
    if (fault > 0) errno = fault;
    result = fault > 0 ? -1 : f();
  } while (result == -1 && errno == EINTR);
  return result;
}

// The same for a transfer of at most `bytes`: f(bytes).
template <class F>
ssize_t transfer_call(const char* call, const std::string& path, std::size_t bytes, F f) {
  ssize_t result;
  do {
    const int fault = injected(call, path);
    if (fault > 0) errno = fault;
    result =
        fault > 0 ? -1 : f(fault < 0 ? std::min(bytes, static_cast<std::size_t>(-fault)) : bytes);
  } while (result == -1 && errno == EINTR);
  return result;
}

// Reads that fail for a moment are repeated: a network file system's hiccup must not cost a run its
// newest checkpoint. (A failed fsync is never repeated, and a failed write makes a new file.)
constexpr std::array<std::chrono::milliseconds, 3> kReadPauses = {
    std::chrono::milliseconds(20), std::chrono::milliseconds(100), std::chrono::milliseconds(500)};
bool may_pass(int code) {
  return code == EIO || code == EAGAIN || code == ETIMEDOUT;
}

}  // namespace

PosixFile::PosixFile(std::string path, int flags) : path_(std::move(path)) {
  descriptor_ =
      system_call("open", path_, [&] { return ::open(path_.c_str(), flags | O_CLOEXEC, 0666); });
  if (descriptor_ == -1) fail_call_with("open", path_, errno);
}

PosixFile PosixFile::scratch(std::int64_t bytes) {
  std::error_code ignored;
  const std::string fallback = std::filesystem::temp_directory_path(ignored).string();
  for (const std::string& directory : {std::string("/dev/shm"), fallback}) {
    const auto space = disk_space(directory);
    const bool full = space && (space->bytes < bytes || space->no_inodes);
    if (full || ::access(directory.c_str(), W_OK) != 0) continue;
    PosixFile file;
    file.path_ = directory + "/neox-layout-XXXXXX";
    file.descriptor_ = system_call("mkstemp", file.path_,
                                   [&] { return ::mkostemp(file.path_.data(), O_CLOEXEC); });
    if (file.descriptor_ == -1) fail_call_with("mkstemp", file.path_, errno);
    return file;
  }
  fail(
      "neither /dev/shm nor {} has room for {} of a temporary file: free some there, or set TMPDIR",
      fallback, format_bytes(static_cast<std::uint64_t>(bytes)));
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
    const ssize_t n = transfer_call("pwrite", path_, piece, [&](std::size_t most) {
      return ::pwrite(descriptor_, from, most, offset);
    });
    if (n == -1) fail_call_with("pwrite", path_, errno);
    if (n == 0) fail_call_with("pwrite", path_, ENOSPC);
    from += n;
    bytes -= n;
    offset += n;
  }
}

void PosixFile::read(void* data, std::int64_t bytes, std::int64_t offset) const {
  auto* to = static_cast<std::byte*>(data);
  std::size_t failures = 0;
  while (bytes > 0) {
    Activity::tick();  // a slow disk is not a hang
    const auto piece = static_cast<std::size_t>(std::min(bytes, kPieceBytes));
    const ssize_t n = transfer_call("pread", path_, piece, [&](std::size_t most) {
      return ::pread(descriptor_, to, most, offset);
    });
    if (n == -1 && may_pass(errno) && failures < kReadPauses.size()) {
      std::this_thread::sleep_for(kReadPauses[failures++]);
      continue;
    }
    if (n == -1) fail_call_with("pread", path_, errno);
    require(n > 0, "{} ends at byte {}, before the {} bytes expected there: it was cut off", path_,
            offset, bytes);
    failures = 0;
    to += n;
    bytes -= n;
    offset += n;
  }
}

void PosixFile::copy_from(const PosixFile& from) const {
  const auto seek = [](const PosixFile& file, std::int64_t at, int whence) {
    return system_call("lseek", file.path_, [&] { return ::lseek(file.descriptor_, at, whence); });
  };
  std::vector<std::byte> buffer(std::size_t{1} << 20);
  const std::int64_t size = from.size();
  for (std::int64_t at = 0; at < size;) {
    const std::int64_t begin = seek(from, at, SEEK_DATA);
    if (begin == -1 && errno == ENXIO) return;  // nothing but a hole follows
    if (begin == -1) fail_call_with("lseek", from.path_, errno);
    const std::int64_t end = seek(from, begin, SEEK_HOLE);
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
  if (descriptor == -1) return;
  const int fault = injected("close", path_);
  int result = ::close(descriptor);  // also when a fault is injected: the kernel has closed it
  if (fault > 0) {
    result = -1;
    errno = fault;
  }
  // Never repeated after EINTR: Linux has closed the descriptor then.
  if (result == -1 && errno != EINTR) fail_call_with("close", path_, errno);
}

void rename_file(const std::string& from, const std::string& to) {
  const int result =
      system_call("rename", to, [&] { return std::rename(from.c_str(), to.c_str()); });
  if (result != 0) fail_call_with("rename", to, errno);
}

void remove_file(const std::string& path) {
  const int result = system_call("unlink", path, [&] { return ::unlink(path.c_str()); });
  if (result == -1 && errno != ENOENT) fail_call_with("unlink", path, errno);
}

void create_directories(const std::string& path) {
  std::error_code error;
  const int result = system_call("mkdir", path, [&] {
    std::filesystem::create_directories(path, error);
    errno = error.value();
    return error ? -1 : 0;
  });
  if (result == -1) fail_call_with("mkdir", path, errno);
}

std::optional<DiskSpace> disk_space(const std::string& path) {
  struct statvfs disk {};
  if (system_call("statvfs", path, [&] { return ::statvfs(path.c_str(), &disk); }) != 0) return {};
  const bool no_inodes = disk.f_files > 0 && disk.f_favail == 0;  // 0 files: it has no limit
  return DiskSpace{static_cast<std::int64_t>(disk.f_bavail * disk.f_frsize), no_inodes};
}

void sync_directory(const std::string& path) {
  const PosixFile directory(path, O_RDONLY | O_DIRECTORY);
  const int result = system_call("fsync", path, [&] { return ::fsync(directory.descriptor()); });
  // Some network and user-space file systems cannot sync a directory and say so with EINVAL.
  if (result == -1 && errno != EINVAL) fail_call_with("fsync", path, errno);
}

}  // namespace neox
