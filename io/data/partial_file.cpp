#include "io/data/partial_file.h"

#include <cerrno>
#include <fcntl.h>
#include <filesystem>
#include <random>
#include <sys/file.h>
#include <sys/stat.h>
#include <system_error>
#include <unistd.h>
#include <utility>

#include "core/base/error.h"
#include "core/base/format.h"

namespace neox {
namespace {

std::string reason(int code) {
  return std::generic_category().message(code);
}

int create(const std::string& path, int flags) {
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | flags, 0666);
  require(fd >= 0,
          "cannot create '{}': {}. Choose a directory that exists and that you may write to", path,
          reason(errno));
  return fd;
}

// Our lock is worth something only while the name still leads to our file: its last holder may have
// renamed or removed it between our open() and flock().
bool still_named(int fd, const std::string& path) {
  struct stat ours {
  }, named{};
  return ::fstat(fd, &ours) == 0 && ::stat(path.c_str(), &named) == 0 &&
         ours.st_ino == named.st_ino && ours.st_dev == named.st_dev;
}

void sync_directory(const std::string& path) {
  auto parent = std::filesystem::path(path).parent_path();
  if (parent.empty()) parent = ".";
  const int fd = ::open(parent.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return;  // a directory that may be written but not read: the rename itself is done
  ::fsync(fd);
  ::close(fd);
}

}  // namespace

std::optional<PartialFile> PartialFile::try_create(const std::string& path) {
  const std::string shared = path + ".partial";
  while (true) {
    const int fd = create(shared, 0);
    int result = 0;
    do {
      result = ::flock(fd, LOCK_EX | LOCK_NB);
    } while (result != 0 && errno == EINTR);
    if (result == 0) {
      if (!still_named(fd, shared)) {
        ::close(fd);
        continue;
      }
      PartialFile file(path, shared, fd);
      require(::ftruncate(fd, 0) == 0, "cannot empty '{}': {}", shared, reason(errno));
      return file;
    }
    const int code = errno;
    ::close(fd);
    if (code == EWOULDBLOCK) return std::nullopt;
    const std::string unique = fmt::format("{}.{:08x}", shared, std::random_device{}());
    return PartialFile(path, unique, create(unique, O_EXCL));
  }
}

PartialFile::PartialFile(PartialFile&& other) noexcept
    : path_(std::move(other.path_)),
      partial_(std::move(other.partial_)),
      fd_(std::exchange(other.fd_, -1)) {}

PartialFile& PartialFile::operator=(PartialFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(partial_, other.partial_);
  std::swap(fd_, other.fd_);
  return *this;
}

PartialFile::~PartialFile() {
  if (fd_ < 0) return;
  ::unlink(partial_.c_str());  // while we hold the lock, so that it is nobody else's
  ::close(fd_);
}

void PartialFile::write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t wrote = ::write(fd_, bytes.data(), bytes.size());
    if (wrote < 0 && errno == EINTR) continue;
    require(wrote >= 0, "cannot write '{}' ({} were still to be written): {}", partial_,
            format_bytes(bytes.size()), reason(errno));
    bytes = bytes.subspan(static_cast<std::size_t>(wrote));
  }
}

void PartialFile::sync() {
  require(::fsync(fd_) == 0, "cannot make '{}' durable: {}", partial_, reason(errno));
}

void PartialFile::publish() {
  sync();
  require(::rename(partial_.c_str(), path_.c_str()) == 0, "cannot rename '{}' to '{}': {}",
          partial_, path_, reason(errno));
  const int fd = std::exchange(fd_, -1);  // from here on there is nothing to remove
  const int closed = ::close(fd);
  require(closed == 0, "cannot finish writing '{}': {}", path_, reason(errno));
  sync_directory(path_);
}

}  // namespace neox
