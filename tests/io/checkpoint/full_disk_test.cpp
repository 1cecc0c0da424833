#include <sched.h>
#include <thread>

#include "tests/io/checkpoint/full_disk_suite.h"

namespace neox {
namespace {

// HDF5 cannot close a file on a full disk, so its layout goes where there is room.
TEST_F(FullDisk, NoRoomForTheLayoutInMemory) {
  std::string in_temporary_files, nowhere;
  bool root = true;
  // Mounts that only this thread sees.
  std::thread([&] {
    root =
        unshare(CLONE_NEWNS) == 0 && mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0;
    if (!root) return;
    const std::string where = "/tmp/neox-layout-test";
    fs::create_directories(where);
    ASSERT_EQ(mount("tmpfs", where.c_str(), "tmpfs", 0, "size=100m"), 0);
    ASSERT_EQ(mount("tmpfs", "/dev/shm", "tmpfs", 0, "size=64k"), 0);
    disk = where + "/run";
    in_temporary_files = save_error(1);
    EXPECT_EQ(newest(), 1);
    ASSERT_EQ(mount("tmpfs", "/tmp", "tmpfs", MS_RDONLY, "size=64k"), 0);
    disk = "/run/neox-full-disk-test";
    ASSERT_TRUE(fs::create_directories(disk));
    nowhere = save_error(1);
    fs::remove_all(disk);
  }).join();
  fs::remove("/tmp/neox-layout-test");
  if (!root) GTEST_SKIP() << "a mount namespace needs root";
  EXPECT_EQ(in_temporary_files, "");
  EXPECT_THAT(nowhere, HasSubstr("neither /dev/shm nor /tmp has room for"));
}

}  // namespace
}  // namespace neox
