#include <csignal>
#include <cstdio>
#include <fcntl.h>
#include <random>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "io/checkpoint/boxes.h"
#include "io/checkpoint/sum64.h"
#include "tests/io/checkpoint/checkpoint_suite.h"

namespace neox {
namespace {

TEST(Sum64, FollowsItsDefinitionAndIgnoresTheOrder) {
  // The first outputs of splitmix64 with seed 0, as published with it.
  const std::uint64_t first = 0xe220a8397b1dcdafu, second = 0x6e789e6aa1b965f4u;
  const std::array<std::uint16_t, 2> data = {0, 0xabcd};
  const auto* bytes = reinterpret_cast<const std::byte*>(data.data());
  EXPECT_EQ(sum64(bytes, 2, 2, 0), (first | 1) + 0xabceu * (second | 1));
  std::vector<std::byte> many(8 * 1000);
  std::mt19937 random(1);
  for (std::byte& b : many) b = static_cast<std::byte>(random());
  for (const std::size_t element : {1, 2, 4, 8}) {
    const auto n = static_cast<std::int64_t>(many.size() / element), cut = n / 3;
    const std::byte* rest = many.data() + static_cast<std::size_t>(cut) * element;
    EXPECT_EQ(sum64(rest, element, n - cut, cut) + sum64(many.data(), element, cut, 0),
              sum64(many.data(), element, n, 0));
  }
  EXPECT_NE(sum64(many.data(), 4, 10, 0), sum64(many.data(), 4, 10, 1));
}

TEST(Boxes, CoverTheRangeTheyStandFor) {
  std::mt19937 random(7);
  const auto below = [&](std::int64_t n) { return static_cast<std::int64_t>(random() % n); };
  for (int round = 0; round < 300; ++round) {
    Part part;
    const int axes = static_cast<int>(below(5));
    for (int axis = 0; axis < axes; ++axis) {
      const std::int64_t extent = 1 + below(4), offset = below(3);
      part.global.push_back(offset + extent + below(3));
      part.slice.offset.push_back(offset);
      part.slice.extent.push_back(extent);
    }
    part.begin = below(part.slice.extent.numel() + 1);
    part.end = part.begin + below(part.slice.extent.numel() - part.begin + 1);
    std::vector<int> from_runs(static_cast<std::size_t>(part.global.numel())),
        from_boxes = from_runs;
    std::int64_t local_end = 0;
    for_each_run(part, [&](std::int64_t local, std::int64_t global, std::int64_t count) {
      EXPECT_EQ(local, local_end);
      local_end += count;
      for (std::int64_t i = 0; i < count; ++i) ++from_runs[static_cast<std::size_t>(global + i)];
    });
    EXPECT_EQ(local_end, part.end - part.begin);
    for (const Slice& box : boxes_of(part)) {
      Part whole{part.global, box, 0, box.extent.numel()};
      for_each_run(whole, [&](std::int64_t, std::int64_t global, std::int64_t count) {
        for (std::int64_t i = 0; i < count; ++i) ++from_boxes[static_cast<std::size_t>(global + i)];
      });
    }
    EXPECT_EQ(from_runs, from_boxes);
    EXPECT_LE(boxes_of(part).size(), static_cast<std::size_t>(std::max(1, 2 * axes - 1)));
  }
}

TEST_F(CheckpointTest, FilesThatAreNotWholeCheckpointsAreRefused) {
  const std::string path = save(3).path, whole = read_bytes(path);
  const auto error_with = [&](const std::string& bytes) {
    write_bytes(path, bytes);
    return error_of([&] { CheckpointReader reader(group, path); });
  };
  for (const std::size_t length : {0, 1, 100, 4095, 4096, 5000, 4'198'400, 5'000'000}) {
    EXPECT_NE(error_with(whole.substr(0, length)), "") << length;
  }
  EXPECT_THAT(error_with(whole.substr(0, whole.size() - 1)), HasSubstr("(cut off?)"));
  EXPECT_THAT(error_with(whole + "x"), HasSubstr("h5repack"));
  EXPECT_THAT(error_with("a text of no interest"), HasSubstr("is not a neox checkpoint"));
  // An HDF5 file, but nobody's checkpoint.
  EXPECT_THAT(error_with(std::string(4096, '\0') + whole.substr(4096)),
              HasSubstr("never completed"));
  EXPECT_THAT(error_with(whole.substr(4096)), HasSubstr("is not a neox checkpoint"));
  EXPECT_THAT(error_of([&] { CheckpointReader reader(group, directory); }), HasSubstr(directory));
  EXPECT_THAT(error_of([&] { CheckpointReader reader(group, directory + "/no.h5"); }),
              HasSubstr("No such file"));
}

std::string output_of(const std::string& command) {
  std::string output;
  FILE* pipe = popen(command.c_str(), "r");
  for (std::array<char, 4096> part; std::fgets(part.data(), part.size(), pipe) != nullptr;) {
    output += part.data();
  }
  EXPECT_EQ(pclose(pipe), 0) << command;
  return output;
}

TEST_F(CheckpointTest, StandardToolsShowIt) {
  OwnedTensor values({2, 2}, DType::bf16);
  const std::array<float, 4> numbers = {1.5f, -0.25f, 3.0f, 1e30f};
  for (std::size_t i = 0; i < 4; ++i) values.tensor.ptr<bf16>()[i] = bf16(numbers[i]);
  SampleState state(0, 1, true);
  state.tensors().push_back({"/model/tiny",
                             {"tiny", DType::bf16, {2, 2}, Slice::whole({2, 2}), values.tensor},
                             0,
                             4,
                             {}});
  const std::string path =
      save_checkpoint(group, directory, state.tensors(), sample_info(1000), {}).path;
  const std::string list = output_of("h5ls -r " + path);
  for (const char* line :
       {"/config/ini              Dataset {SCALAR}", "/model/embed_in/weight   Dataset {11, 6}",
        "/model/embed_out/weight  Soft Link {/model/embed_in/weight}",
        "/model/layers/0/cube     Dataset {3, 8, 5}",
        "/optimizer/large         Dataset {301, 1003}", "/types/bfloat16          Type"}) {
    EXPECT_THAT(list, HasSubstr(line));
  }
  EXPECT_THAT(output_of("h5dump -d /model/tiny " + path), HasSubstr("1.5, -0.25"));
  EXPECT_THAT(output_of("h5dump -d /config/ini " + path), HasSubstr("num_layers = 2"));
  EXPECT_THAT(output_of("h5dump -a /optimizer/eps " + path), HasSubstr("1e-08"));
  EXPECT_THAT(output_of("head -c 200 " + path),
              HasSubstr("neox checkpoint, format 1\nstep 1000\n"));
}

TEST_F(CheckpointTest, LeftoversOfDeadJobsAreRemoved) {
  char host[256] = {};
  gethostname(host, sizeof host - 1);
  std::string name = host;
  std::replace(name.begin(), name.end(), '-', '_');
  const std::string dead =
      fmt::format("{}/.tmp-step0000000001-{}.999999999-ab.h5", directory, name);
  const std::string own =
      fmt::format("{}/.tmp-step0000000001-{}.{}-ab.h5", directory, name, getpid());
  const std::string locked =
      fmt::format("{}/.del-step0000000001-{}.{}-cd.h5", directory, name, getpid());
  const std::string other = directory + "/.tmp-step0000000001-elsewhere.12-ab.h5";
  const std::string old = directory + "/.tmp-step0000000001-elsewhere.13-ab.h5";
  const pid_t zombie = fork();  // dead, but nobody has waited for it
  if (zombie == 0) _exit(0);
  siginfo_t ended;
  waitid(P_PID, static_cast<id_t>(zombie), &ended, WEXITED | WNOWAIT);
  const auto of = [&](pid_t pid) {
    return fmt::format("{}/.tmp-step0000000002-{}.{}-ab.h5", directory, name, pid);
  };
  const std::string unreaped = of(zombie), living = of(getppid());
  for (const auto& path : {dead, own, locked, other, old, unreaped, living}) write_bytes(path, "x");
  fs::last_write_time(old, fs::file_time_type::clock::now() - std::chrono::hours(25));
  const PosixFile alive(locked, O_RDWR);
  ASSERT_TRUE(alive.try_lock());
  clean_checkpoint_directory(group, directory);
  waitpid(zombie, nullptr, 0);
  EXPECT_FALSE(fs::exists(unreaped));
  EXPECT_TRUE(fs::exists(living));
  EXPECT_FALSE(fs::exists(dead));
  EXPECT_FALSE(fs::exists(own));
  EXPECT_FALSE(fs::exists(old));
  EXPECT_TRUE(fs::exists(locked));
  EXPECT_TRUE(fs::exists(other));
}

TEST_F(CheckpointTest, UnusableDirectories) {
  write_bytes(directory + "/file", "");
  EXPECT_THAT(error_of([&] { save(group, directory + "/file/sub", 1); }),
              HasSubstr("cannot be created: mkdir of " + directory + "/file/sub: Not a directory"));
  EXPECT_THAT(error_of([&] { save(group, "/proc/checkpoints", 1); }),
              HasSubstr("/proc/checkpoints"));
  save(group, directory + "/a/b/c", 1);
  EXPECT_TRUE(fs::exists(directory + "/a/b/c/step0000000001.h5"));
}

TEST_F(CheckpointTest, FileSizeLimitIsAnError) {
  save(1);
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
  for (const rlim_t limit : {rlim_t{4096}, rlim_t{1} << 20, rlim_t{5} << 20}) {
    const rlimit small{limit, before.rlim_max};
    setrlimit(RLIMIT_FSIZE, &small);
    const std::string message = error_of([&] { save(2); });
    setrlimit(RLIMIT_FSIZE, &before);
    EXPECT_THAT(message, HasSubstr("step 2 failed")) << limit;
    EXPECT_THAT(files(), ::testing::ElementsAre("latest", "step0000000001.h5"));
  }
  std::signal(SIGXFSZ, old_handler);
  EXPECT_EQ(open_newest(group, directory)->info().step, 1);
}

TEST_F(CheckpointTest, FullDiskIsFoundBeforeAnythingIsWritten) {
  const std::string disk = directory + "/disk";
  fs::create_directory(disk);
  if (mount("tmpfs", disk.c_str(), "tmpfs", 0, "size=30m") != 0) {
    GTEST_SKIP() << "mounting a small file system needs root";
  }
  // Undone whatever happens: the fixture removes the directory.
  const auto unmount = [](const std::string* at) { umount(at->c_str()); };
  const std::unique_ptr<const std::string, decltype(unmount)> mounted(&disk, unmount);
  save(group, disk, 1);
  const std::string filler(static_cast<std::size_t>(fs::space(disk).available) - (5u << 20), 'x');
  write_bytes(disk + "/filler", filler);
  EXPECT_THAT(error_of([&] { save(group, disk, 2); }), HasSubstr("not enough space in " + disk));
  EXPECT_EQ(open_newest(group, disk)->info().step, 1);
}

}  // namespace
}  // namespace neox
