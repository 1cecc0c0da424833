#pragma once
// Saves to file systems that are really full, read-only or gone (small ones in memory; root only).
// For any number of ranks; each program includes this once.

#include <cerrno>
#include <cstdio>
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "core/base/log.h"
#include "tests/io/checkpoint/fault_test_size.h"
#include "tests/io/checkpoint/injected_faults.h"
#include "tests/io/checkpoint/sample_state.h"

namespace neox {
namespace {

constexpr std::int64_t kMiB = 1 << 20;

class FullDisk : public CheckpointTest {
 protected:
  FullDisk() {
    set_log_level(LogLevel::error);
    std::string name = "/dev/shm/neox-disk-XXXXXX";
    if (rank == 0) {
      fs::remove_all(directory);
      EXPECT_NE(mkdtemp(name.data()), nullptr);
    }
    directory = group.host_broadcast(name, 0);
    disk = directory + "/disk";
  }
  ~FullDisk() override {
    testing_hooks::fail_call = nullptr;
    group.barrier();
    if (mounted) unmount();
    group.barrier();
    set_log_level(LogLevel::info);
  }

  /// A file system of `kind` (tmpfs, ext4); false where this process may not mount any.
  bool make_disk(const std::string& kind, std::int64_t bytes, const std::string& options = "") {
    std::int64_t good = 0;
    if (rank == 0) good = mount_here(kind, bytes, options) ? 1 : 0;
    group.host_all_reduce(std::span(&good, 1), ReduceOp::max);
    mounted = good != 0;
    return mounted;
  }
  void unmount() {
    mounted = false;
    group.barrier();
    if (rank == 0) {
      EXPECT_EQ(umount(disk.c_str()), 0) << disk;  // a loop device goes with it
    }
  }
  /// Leaves `bytes` of the disk, or as much as there is.
  void leave_free(std::int64_t bytes) {
    if (rank == 0) {
      fs::remove(disk + "/filler");
      const std::int64_t filler = available() - bytes;
      if (filler > 0) {
        const PosixFile file(disk + "/filler", O_WRONLY | O_CREAT);
        ::fallocate(file.descriptor(), 0, 0, filler);
      }
    }
    group.barrier();
  }
  std::int64_t available() const {
    struct statvfs space {};
    EXPECT_EQ(statvfs(disk.c_str(), &space), 0);
    return static_cast<std::int64_t>(space.f_bavail * space.f_frsize);
  }
  std::string save_error(std::int64_t step, bool background = false) {
    const TimeLimit limit(120);
    const std::string message = error_of([&] {
      SampleState state(rank, group.size(), true, static_cast<int>(step));
      CheckpointSave save(group, disk, state.tensors(), sample_info(step), {});
      if (background) {
        save.start();
        save.start_commit();
      }
      save.finish();
    });
    EXPECT_THAT(group.host_all_gather(message), ::testing::Each(message));
    return message;
  }
  std::int64_t newest() {
    const auto reader = open_newest(group, disk);
    return reader == nullptr ? -1 : reader->info().step;
  }
  /// Step 2 could not be saved: step 1 is as it was, nothing else is left, and with room it works.
  void expect_unharmed(const std::string& what) {
    group.barrier();
    EXPECT_EQ(newest(), 1) << what;
    if (rank == 0) {
      EXPECT_TRUE(read_bytes(disk + "/step0000000001.h5") == first) << what;
      for (const auto& entry : fs::directory_iterator(disk)) {
        EXPECT_FALSE(entry.path().filename().string().starts_with(".")) << entry.path() << what;
      }
    }
    group.barrier();
  }
  void save_first() {
    EXPECT_EQ(save_error(1), "");
    first = read_bytes(disk + "/step0000000001.h5");
    group.barrier();
  }
  void sweep(bool background, bool reserves);

  std::string disk;
  bool mounted = false;
  std::string first;
  int failed = 0, succeeded = 0;

 private:
  bool mount_here(const std::string& kind, std::int64_t bytes, const std::string& options) {
    fs::create_directory(disk);
    if (kind == "tmpfs") {
      const std::string all = fmt::format("size={}{}", bytes, options);
      return mount("tmpfs", disk.c_str(), "tmpfs", 0, all.c_str()) == 0;
    }
    const std::string image = directory + "/image";
    write_bytes(image, "");
    fs::resize_file(image, static_cast<std::uintmax_t>(bytes));
    const std::string command =
        fmt::format("mkfs.{0} -q -m 0 {1} > /dev/null 2>&1 && mount -o loop {1} {2} 2> /dev/null",
                    kind, image, disk);
    if (std::system(command.c_str()) != 0) return false;
    fs::remove(disk + "/lost+found");
    return true;
  }
};

// The disk has room for less than the file, more and more up to all of it and of `latest`. Without
// the check of the space, and where the file system cannot reserve any, it is the later phases that
// meet the full disk.
void FullDisk::sweep(bool background, bool reserves) {
  testing_hooks::fail_call = [](const char* call, const std::string&) {
    return call == std::string_view("statvfs") ? ENOSYS : 0;
  };
  if (!reserves) {
    testing_hooks::fail_call = [](const char* call, const std::string&) {
      const std::string_view name = call;
      return name == "statvfs" ? ENOSYS : name == "fallocate" ? EOPNOTSUPP : 0;
    };
  }
  const auto bytes = std::ssize(first);
  std::vector<std::int64_t> targets;
  const std::int64_t step = all_faults() ? kMiB / 16 : kMiB;
  for (std::int64_t at = 0; at < bytes + kMiB; at += step) targets.push_back(at);
  // Around what the file takes really: without a reservation its padding is a hole.
  const std::int64_t near_end = reserves ? bytes : bytes - 4 * kMiB;
  for (std::int64_t at = -4; at <= 12; at += all_faults() ? 1 : 4) {
    targets.push_back(near_end / 4096 * 4096 + at * 4096);
  }
  for (const std::int64_t target : targets) {
    const std::string what = fmt::format("with {} bytes free", target);
    leave_free(target);
    const std::string message = save_error(2, background);
    if (message.empty()) {
      ++succeeded;
      EXPECT_EQ(newest(), 2) << what;
      if (rank == 0) fs::remove(disk + "/step0000000002.h5");
    } else {
      ++failed;
      EXPECT_THAT(message, HasSubstr("No space left on device (the disk or its inodes are full"));
      expect_unharmed(what);
    }
    group.barrier();
  }
  testing_hooks::fail_call = nullptr;
  leave_free(40 * kMiB);
  EXPECT_EQ(save_error(2, background), "");
  EXPECT_EQ(newest(), 2);
  if (rank == 0) fs::remove(disk + "/step0000000002.h5");
  group.barrier();
}

TEST_F(FullDisk, AtEveryPhaseOfASave) {
  for (const char* kind : {"tmpfs", "ext4"}) {
    if (!make_disk(kind, 48 * kMiB)) GTEST_SKIP() << "mounting a small " << kind << " needs root";
    save_first();
    for (const bool reserves : {true, false}) {
      for (const bool background : {false, true}) sweep(background, reserves);
    }
    unmount();
    if (rank == 0) std::printf("[   CASES  ] %s: %d failed, %d went\n", kind, failed, succeeded);
    EXPECT_GT(failed, 10);
    EXPECT_GT(succeeded, 5);
    failed = succeeded = 0;
  }
}

// Another process takes all that is left once the file is reserved: the reservation holds.
TEST_F(FullDisk, FilledBetweenReservationAndData) {
  for (const char* kind : {"tmpfs", "ext4"}) {
    if (!make_disk(kind, 48 * kMiB)) GTEST_SKIP() << "mounting a small " << kind << " needs root";
    save_first();
    SampleState state(rank, group.size(), true, 2);
    CheckpointSave save(group, disk, state.tensors(), sample_info(2), {});
    leave_free(0);
    EXPECT_EQ(error_of([&] { save.finish(); }), "");  // but for `latest`, perhaps
    EXPECT_EQ(newest(), 2);
    unmount();
  }
}

TEST_F(FullDisk, WithoutInodes) {
  if (!make_disk("tmpfs", 64 * kMiB, ",nr_inodes=12")) GTEST_SKIP() << "mounting needs root";
  save_first();
  if (rank == 0) {
    int made = 0;
    while (std::ofstream(fmt::format("{}/file{}", disk, made)).good()) ++made;
    EXPECT_GT(made, 5);
  }
  group.barrier();
  EXPECT_THAT(save_error(2), HasSubstr("no more files can be made in " + disk));
  testing_hooks::fail_call = [](const char* call, const std::string&) {
    return call == std::string_view("statvfs") ? ENOSYS : 0;
  };
  EXPECT_THAT(save_error(2), HasSubstr("the disk or its inodes are full: free some"));
  expect_unharmed("without inodes");
  testing_hooks::fail_call = nullptr;
  if (rank == 0) {
    for (int i = 0; i < 3; ++i) fs::remove(fmt::format("{}/file{}", disk, i));
  }
  group.barrier();
  EXPECT_EQ(save_error(2), "");
}

TEST_F(FullDisk, ReadOnlyDirectory) {
  if (!make_disk("ext4", 48 * kMiB)) GTEST_SKIP() << "mounting needs root";
  save_first();
  const auto shell = [&](const std::string& command) {
    std::int64_t good = 1;
    if (rank == 0) good = std::system((command + " 2> /dev/null").c_str()) == 0 ? 1 : 0;
    group.host_all_reduce(std::span(&good, 1), ReduceOp::min);
    return good != 0;
  };
  ASSERT_TRUE(shell("mount -o remount,ro " + disk));
  EXPECT_THAT(save_error(2), HasSubstr(disk + " is not writable: Read-only file system"));
  expect_unharmed("read-only");
  ASSERT_TRUE(shell("mount -o remount,rw " + disk));
  if (shell("chattr +i " + disk)) {
    EXPECT_THAT(save_error(2), HasSubstr("Operation not permitted"));
    expect_unharmed("immutable");
    ASSERT_TRUE(shell("chattr -i " + disk));
  }
  EXPECT_EQ(save_error(2, true), "");
  EXPECT_EQ(newest(), 2);
}

TEST_F(FullDisk, DirectoryThatGoesOrIsALink) {
  for (const bool background : {false, true}) {
    EXPECT_EQ(save_error(1), "");
    std::string message;
    {
      SampleState state(rank, group.size(), true, 2);
      CheckpointSave save(group, disk, state.tensors(), sample_info(2), {});
      group.barrier();
      if (rank == 0) fs::remove_all(disk);
      group.barrier();
      if (background) save.start();
      message = error_of([&] { save.finish(); });
    }
    EXPECT_THAT(message, HasSubstr("No such file or directory"));
    EXPECT_THAT(group.host_all_gather(message), ::testing::Each(message));
    EXPECT_EQ(save_error(3, background), "");  // makes it again
    EXPECT_EQ(newest(), 3);
    if (rank == 0) fs::remove_all(disk);
    group.barrier();
  }
  {  // a file in its place, which rank 0 alone finds when it looks for old checkpoints
    SampleState state(rank, group.size(), true, 2);
    const SaveOptions options{CheckpointIo::direct, 2, [](std::int64_t) { return false; }, {}};
    CheckpointSave save(group, disk, state.tensors(), sample_info(2), options);
    save.start();
    while (!save.through()) usleep(1000);
    group.barrier();
    if (rank == 0) {
      fs::remove_all(disk);
      write_bytes(disk, "");
    }
    group.barrier();
    const std::string message = error_of([&] { save.finish(); });
    EXPECT_THAT(message, HasSubstr("Not a directory"));
    EXPECT_THAT(group.host_all_gather(message), ::testing::Each(message));
    group.barrier();
    if (rank == 0) fs::remove(disk);
    group.barrier();
  }
  if (rank == 0) {
    fs::create_directory(directory + "/real");
    fs::create_directory_symlink("real", disk);
  }
  group.barrier();
  EXPECT_EQ(save_error(1), "");
  EXPECT_EQ(save_error(2, true), "");
  EXPECT_EQ(newest(), 2);
  EXPECT_TRUE(fs::is_regular_file(directory + "/real/step0000000002.h5"));
  group.barrier();
  if (rank == 0) fs::remove_all(directory + "/real");
  group.barrier();
  EXPECT_THAT(save_error(3), HasSubstr("cannot be created: "));  // the link leads nowhere
}

}  // namespace
}  // namespace neox
