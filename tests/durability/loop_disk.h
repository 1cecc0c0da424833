#pragma once
// An ext4 file system of its own, whose power can be cut.

#include <string>

namespace neox::testing {

/// A file as a disk (loop device), mounted where only this process and its children see it: it is
/// gone with them, however they end. Needs root.
class LoopDisk {
 public:
  /// Makes the image and the mount point inside `folder`.
  LoopDisk(const std::string& folder, int megabytes);
  ~LoopDisk();
  LoopDisk(const LoopDisk&) = delete;
  LoopDisk& operator=(const LoopDisk&) = delete;

  /// Empty when there is a disk, else what this machine lacks.
  const std::string& problem() const { return problem_; }
  const std::string& path() const { return mount_point_; }

  /// What is not on the disk now never will be: data and journal in memory are lost, and every
  /// later write fails.
  void cut_power() const;
  /// After cut_power(), with no process using the disk: comes back as after a restart.
  void power_on();

 private:
  std::string mount();
  void unmount();

  std::string image_, mount_point_, problem_;
  bool mounted_ = false;
};

}  // namespace neox::testing
