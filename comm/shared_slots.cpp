#include "comm/shared_slots.h"

#include <algorithm>
#include <cerrno>
#include <fcntl.h>
#include <memory>
#include <random>
#include <sys/mman.h>
#include <system_error>
#include <unistd.h>

namespace neox {
namespace {

std::string last_error() {
  return std::generic_category().message(errno);
}

// A descriptor, or -1.
int create(std::string& name, std::size_t bytes, std::string& problem) {
  std::random_device random;
  name = fmt::format("/neox-{}-{:08x}{:08x}", getpid(), random(), random());
  const int file = shm_open(name.c_str(), O_RDWR | O_CREAT | O_EXCL, 0600);
  if (file < 0) {
    problem = fmt::format("shared memory cannot be created: {}", last_error());
    return -1;
  }
  // Not ftruncate: a full /dev/shm must be an error here, not a SIGBUS later.
  if (const int code = posix_fallocate(file, 0, static_cast<off_t>(bytes)); code != 0) {
    problem = fmt::format("{} bytes of shared memory are not to be had: {}", bytes,
                          std::generic_category().message(code));
    shm_unlink(name.c_str());
    close(file);
    return -1;
  }
  return file;
}

}  // namespace

SharedSlots::SharedSlots(Communicator& node) {
  const auto count = static_cast<std::size_t>(node.size());
  const std::size_t bytes = sizeof(SlotsHeader) + count * sizeof(ActivitySlot);
  std::string name;
  int file = -1;
  if (node.rank() == 0 && count > 1) file = create(name, bytes, problem_);
  const bool maker = file >= 0;
  name = node.host_broadcast(std::move(name), 0);
  if (node.rank() != 0 && !name.empty()) {
    file = shm_open(name.c_str(), O_RDWR, 0);
    if (file < 0) problem_ = fmt::format("rank 0's shared memory is not here: {}", last_error());
  }
  if (file >= 0) map(file, count);
  std::int64_t failed = count > 1 && memory_ == nullptr ? 1 : 0;
  node.host_all_reduce(std::span(&failed, 1), ReduceOp::max);
  if (maker) shm_unlink(name.c_str());
  if (failed != 0 && problem_.empty()) problem_ = "another rank cannot share memory";
  if (failed == 0 && count > 1) {
    own_ = static_cast<std::size_t>(node.rank());
    return;
  }
  unmap();
  map(-1, 1);
  require(memory_ != nullptr, "no memory for the watchdog: {}", last_error());
}

SharedSlots::~SharedSlots() {
  unmap();
}

void SharedSlots::map(int file, std::size_t count) {
  bytes_ = sizeof(SlotsHeader) + count * sizeof(ActivitySlot);
  void* memory = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE,
                      file >= 0 ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS, file, 0);
  if (memory == MAP_FAILED)
    problem_ = fmt::format("shared memory cannot be used: {}", last_error());
  if (file >= 0) close(file);
  if (memory == MAP_FAILED) return;
  memory_ = memory;
  // Fresh pages are zero, and zero is a valid empty slot: nobody constructs what others already
  // use.
  header_ = static_cast<SlotsHeader*>(memory);
  slots_ = {reinterpret_cast<ActivitySlot*>(header_ + 1), count};
}

void SharedSlots::unmap() {
  if (memory_ != nullptr) munmap(memory_, bytes_);
  memory_ = nullptr;
}

}  // namespace neox
