#include "io/metrics/append_file.h"

#include <cerrno>
#include <fcntl.h>
#include <filesystem>
#include <sys/stat.h>
#include <system_error>
#include <unistd.h>
#include <utility>

#include "core/base/error.h"

namespace neox {
namespace {

std::string reason(int code) {
  return std::generic_category().message(code);
}

}  // namespace

AppendFile::AppendFile(std::string path, Mode mode) : path_(std::move(path)) {
  const int flags = mode == Mode::create_new ? O_EXCL : 0;
  fd_ = ::open(path_.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | flags, 0666);
  require(fd_ >= 0, "cannot open '{}' for writing: {}. Choose a directory that you may write to",
          path_, reason(errno));
}

AppendFile::~AppendFile() {
  if (fd_ >= 0) ::close(fd_);
}

AppendFile::AppendFile(AppendFile&& other) noexcept
    : path_(std::move(other.path_)), fd_(std::exchange(other.fd_, -1)) {}

void AppendFile::append(std::string_view record) {
  struct stat before {};
  require(::fstat(fd_, &before) == 0, "cannot read the size of '{}': {}", path_, reason(errno));
  std::string_view rest = record;
  while (!rest.empty()) {
    const ssize_t wrote = ::write(fd_, rest.data(), rest.size());
    if (wrote > 0) {
      rest.remove_prefix(static_cast<std::size_t>(wrote));
      continue;
    }
    const int code = wrote == 0 ? ENOSPC : errno;
    if (code == EINTR) continue;
    const bool undone = rest.size() == record.size() || ::ftruncate(fd_, before.st_size) == 0;
    fail("cannot write '{}': {}{}", path_, reason(code),
         undone ? "" : ", and its last record is cut short");
  }
}

void create_directories_for_writing(const std::string& directory) {
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  require(!error, "cannot create the directory '{}': {}. Choose one that you may write to",
          directory, error.message());
}

}  // namespace neox
