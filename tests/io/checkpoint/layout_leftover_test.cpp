// What a save leaves behind when it is killed while it lays out its file.

#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "core/tensor/buffer.h"
#include "io/checkpoint/checkpoint.h"
#include "io/checkpoint/posix_file.h"

namespace neox {
namespace {

namespace fs = std::filesystem;

std::vector<std::string> seen;  // layouts in memory, open when the checkpoint's file is made

int look(const char* call, const std::string& path) {
  if (std::strcmp(call, "open") != 0 || path.find(".tmp-step") == std::string::npos) return 0;
  for (const auto& entry : fs::directory_iterator("/proc/self/fd")) {
    std::error_code ignored;
    const std::string target = fs::read_symlink(entry.path(), ignored).string();
    if (target.find("neox-layout-") != std::string::npos) seen.push_back(target);
  }
  return 0;
}

TEST(CheckpointLayout, HasNoNameInMemory) {
  std::string directory = (fs::temp_directory_path() / "neox-layout-test-XXXXXX").string();
  ASSERT_NE(::mkdtemp(directory.data()), nullptr);
  OwnedTensor values({3, 5}, DType::f32);
  CheckpointTensor tensor;
  tensor.path = "/model/weight";
  tensor.shard = {"weight", DType::f32, {3, 5}, Slice::whole({3, 5}), values};
  tensor.write_end = 15;
  const auto self = make_self_communicator();
  testing_hooks::fail_call = look;
  save_checkpoint(*self, directory, std::vector{tensor}, {});
  testing_hooks::fail_call = nullptr;
  ASSERT_FALSE(seen.empty());
  EXPECT_TRUE(seen[0].ends_with(" (deleted)")) << seen[0];
  fs::remove_all(directory);
}

}  // namespace
}  // namespace neox
