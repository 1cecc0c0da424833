#include "io/data/mapped_file.h"

#include <cerrno>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <system_error>
#include <unistd.h>
#include <utility>

#include "core/base/error.h"

namespace neox {

MappedFile::MappedFile(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  require(fd >= 0, "cannot open '{}': {}", path, std::generic_category().message(errno));
  struct stat info {};
  const bool known = ::fstat(fd, &info) == 0;
  void* memory = MAP_FAILED;
  const bool regular = known && S_ISREG(info.st_mode);
  if (regular && info.st_size > 0) {
    size_ = static_cast<std::size_t>(info.st_size);
    memory = ::mmap(nullptr, size_, PROT_READ, MAP_SHARED, fd, 0);
  }
  const int code = errno;
  ::close(fd);
  require(known, "cannot read the size of '{}': {}", path, std::generic_category().message(code));
  require(regular, "'{}' is {}, not a file: correct the path", path,
          S_ISDIR(info.st_mode) ? "a directory" : "a device, pipe or socket");
  if (size_ == 0) return;
  require(memory != MAP_FAILED, "cannot map '{}' into memory: {}", path,
          std::generic_category().message(code));
  data_ = static_cast<const std::byte*>(memory);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

void MappedFile::expect_sequential() const {
  if (data_ != nullptr) ::madvise(const_cast<std::byte*>(data_), size_, MADV_WILLNEED);
}

}  // namespace neox
