// Runs of neox_train on two ranks whose checkpoints are damaged, or whose disk is full or
// read-only.

#include <csignal>
#include <fstream>
#include <sys/mount.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/app/job.h"
#include "tests/app/program_runner.h"

namespace neox::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::Not;

class DamagedDisk : public ::testing::Test {
 protected:
  DamagedDisk() {
    make_corpus(workspace_);
    workspace_.write("tiny.ini", tiny_config("../corpus_text_document"));
  }
  ~DamagedDisk() override {
    if (!disk_.empty()) umount2(disk_.c_str(), MNT_DETACH);
  }
  static std::string train(const std::string& options) {
    return mpirun(2, "neox_train --config ../tiny.ini --train.eval_interval 0 " + options);
  }
  /// A file system of 40 MiB at <folder>/run; false where mounting is not allowed.
  bool mount_disk(const std::string& folder) {
    const std::string at = workspace_.file(folder + "/run");
    fs::create_directories(at);
    if (mount("tmpfs", at.c_str(), "tmpfs", 0, "size=40m") != 0) return false;
    disk_ = at;
    return true;
  }
  /// Leaves some 5 MiB of it.
  void fill() const { std::ofstream(disk_ + "/filler") << std::string(35 << 20, 'x'); }
  void free_again() const { fs::remove(disk_ + "/filler"); }
  /// The line of `text` that holds `what`.
  static std::string line_with(const std::string& text, const std::string& what) {
    const std::size_t at = text.find(what);
    if (at == std::string::npos) return "";
    const std::size_t begin = text.rfind('\n', at) + 1;
    return text.substr(begin, text.find('\n', at) - begin);
  }

  Workspace workspace_;
  std::string disk_;
};

TEST_F(DamagedDisk, TheCheckpointBeforeADamagedOneContinuesTheSameRun) {
  fs::create_directory(workspace_.path() / "whole");
  workspace_.run_ok(train("--train.train_iters 30 --train.deterministic"), "whole");
  const std::string newest = "run/step0000000030.h5";
  struct Damage {
    const char* name;
    const char* command;
    const char* reason;
  };
  for (const Damage& damage : {
           Damage{"bit", "printf 'x' | dd of=run/step0000000030.h5 bs=1 seek=4300000 conv=notrunc",
                  "is damaged: the sum of /"},
           Damage{"stale",
                  "dd if=run/step0000000020.h5 of=run/step0000000030.h5 bs=4096 skip=1030 "
                  "seek=1030 count=1 conv=notrunc",
                  "is damaged: the sum of /"},
           Damage{"cut", "truncate -s -1 run/step0000000030.h5", "(cut off?)"},
           Damage{"step", "cp run/step0000000010.h5 run/step0000000030.h5",
                  "holds the checkpoint of step 10"},
       }) {
    const std::string folder = damage.name;
    workspace_.run_ok("cp -r whole " + folder);
    workspace_.run_ok(damage.command, folder);
    const auto verified = workspace_.run(mpirun(2, "neox_convert verify run"), folder);
    EXPECT_EQ(verified.exit_code, 1) << folder;
    EXPECT_THAT(verified.out, HasSubstr(newest + ": DAMAGED: ")) << folder;
    EXPECT_THAT(verified.out, HasSubstr("run/step0000000020.h5: step 20, all ")) << folder;
    const auto resumed =
        workspace_.run_ok(train("--train.train_iters 30 --train.deterministic"), folder);
    EXPECT_THAT(line_with(resumed.err, "skipping step 30: "), HasSubstr(damage.reason)) << folder;
    EXPECT_THAT(line_with(resumed.err, "skipping step 30: "), HasSubstr(newest)) << folder;
    EXPECT_THAT(resumed.err, HasSubstr("resuming from run/step0000000020.h5")) << folder;
    EXPECT_TRUE(workspace_.read(folder + "/" + newest) == workspace_.read("whole/" + newest))
        << folder << ": the run that continued from step 20 ended in other values";
  }
}

TEST_F(DamagedDisk, AFullDiskIsAWarningUntilItHasRoomAgain) {
  if (!mount_disk("full")) GTEST_SKIP() << "mounting a small file system needs root";
  fill();
  Job job(workspace_,
          train("--train.train_iters 1000000 --checkpoint.checkpoint_factor 1000000 "
                "--checkpoint.extra_save_iters 5"),
          "full");
  ASSERT_TRUE(job.wait_for_text("Training goes on")) << job.err();
  const std::string warning = line_with(job.err(), "Training goes on");
  EXPECT_EQ(job.err().find("Training goes on"), job.err().rfind("Training goes on"));  // once
  EXPECT_THAT(warning, HasSubstr("warning: saving the checkpoint of step 5 failed on rank 0 ("));
  EXPECT_THAT(warning, ContainsRegex("not enough space in run: .* needed, .* available. Free some, "
                                     "or keep fewer checkpoints"));
  EXPECT_THAT(warning, HasSubstr("next attempt in 10 s, failure 1 of 5; no checkpoint was written "
                                 "yet"));
  free_again();
  ASSERT_TRUE(job.wait_for_text("saved run/step", 120)) << job.err();
  EXPECT_THAT(job.err(), Not(HasSubstr("failure 2")));
  workspace_.run_ok("neox_convert verify run", "full");
}

TEST_F(DamagedDisk, ADiskThatStaysFullEndsTheRunAsConfigured) {
  if (!mount_disk("full")) GTEST_SKIP() << "mounting a small file system needs root";
  workspace_.run_ok(train("--train.train_iters 10"), "full");
  fill();
  const auto ended = workspace_.run(
      train("--train.train_iters 60 --checkpoint.max_failures 2 --checkpoint.checkpoint_factor 5"),
      "full");
  EXPECT_EQ(ended.exit_code, 1);
  EXPECT_THAT(ended.err, HasSubstr("failure 1 of 2; the newest checkpoint is that of step 10"));
  const std::string last = line_with(ended.err, "failure 2 in a row of 2");
  EXPECT_THAT(last, HasSubstr("not enough space in run: "));
  EXPECT_THAT(last,
              HasSubstr("(checkpoint.max_failures); the newest checkpoint is that of step 10"));
  free_again();
  workspace_.run_ok("neox_convert verify run", "full");
  const auto resumed = workspace_.run_ok(train("--train.train_iters 20"), "full");
  EXPECT_THAT(resumed.err, HasSubstr("resuming from run/step0000000010.h5"));
  // Read-only, the run says so before its first step.
  ASSERT_EQ(mount(nullptr, disk_.c_str(), nullptr, MS_REMOUNT | MS_RDONLY, nullptr), 0);
  const auto refused = workspace_.run(train("--train.train_iters 30"), "full");
  EXPECT_EQ(refused.exit_code, 1);
  EXPECT_THAT(refused.err,
              HasSubstr("the checkpoint directory run is not writable: Read-only file system"));
}

}  // namespace
}  // namespace neox::testing
