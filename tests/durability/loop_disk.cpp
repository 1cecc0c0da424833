#include "tests/durability/loop_disk.h"

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

#include "core/base/error.h"

namespace neox::testing {
namespace {

// From the kernel's fs/ext4/ext4.h, which no package installs.
constexpr unsigned long kExt4Shutdown = _IOR('X', 125, std::uint32_t);
constexpr std::uint32_t kWithoutLogFlush = 2;

int run(const std::string& command) {
  const int status = std::system((command + " > /dev/null 2>&1").c_str());
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}

// Once per process: mounts from here on are not seen outside.
std::string leave_mount_namespace() {
  static const std::string problem = [] {
    if (geteuid() != 0) return std::string("not root");
    if (unshare(CLONE_NEWNS) != 0 ||
        ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) {
      return std::string("no mount namespace: ") + std::strerror(errno);
    }
    return std::string();
  }();
  return problem;
}

}  // namespace

LoopDisk::LoopDisk(const std::string& folder, int megabytes)
    : image_(folder + "/disk.img"), mount_point_(folder + "/disk") {
  problem_ = leave_mount_namespace();
  if (!problem_.empty()) return;
  std::filesystem::create_directories(mount_point_);
  std::ofstream(image_, std::ios::binary).close();
  std::filesystem::resize_file(image_, static_cast<std::uintmax_t>(megabytes) << 20);
  if (run("mkfs.ext4 -q -F '" + image_ + "'") != 0) {
    problem_ = "mkfs.ext4 fails";
    return;
  }
  problem_ = mount();
}

LoopDisk::~LoopDisk() {
  if (mounted_) run("umount -l '" + mount_point_ + "'");
}

// mount detaches the loop device by itself when the file system goes.
std::string LoopDisk::mount() {
  mounted_ = run("mount -o loop '" + image_ + "' '" + mount_point_ + "'") == 0;
  return mounted_ ? "" : "an image cannot be mounted (loop devices?)";
}

void LoopDisk::unmount() {
  // The last process that used it may take a moment to go.
  for (int attempt = 0; attempt < 200; ++attempt) {
    if (run("umount '" + mount_point_ + "'") == 0) {
      mounted_ = false;
      return;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  fail("{} cannot be unmounted", mount_point_);
}

void LoopDisk::cut_power() const {
  const int fd = open(mount_point_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  std::uint32_t how = kWithoutLogFlush;
  const int result = ioctl(fd, kExt4Shutdown, &how);
  const int code = errno;
  if (fd >= 0) close(fd);
  require(result == 0, "the power of {} cannot be cut: {}", mount_point_, std::strerror(code));
}

void LoopDisk::power_on() {
  unmount();
  // 1: errors were corrected (the journal was replayed).
  const int code = run("e2fsck -p '" + image_ + "'");
  require(code <= 1, "e2fsck -p {}: exit code {}", image_, code);
  const std::string problem = mount();
  require(problem.empty(), "{}: {}", image_, problem);
}

}  // namespace neox::testing
