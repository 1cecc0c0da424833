#pragma once
// Damaged checkpoints of every kind: each is found before it is used, on all ranks, with a warning
// that names the file and the reason, and the checkpoint before it is loaded. For any number of
// ranks; each program includes this once.

#include <cstdio>
#include <fcntl.h>
#include <random>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/checkpoint/format.h"
#include "io/checkpoint/sum64.h"
#include "tests/io/checkpoint/fault_test_size.h"
#include "tests/io/checkpoint/sample_state.h"

namespace neox {
namespace {

/// What the process writes to stderr while this lives.
class StderrCapture {
 public:
  StderrCapture() : file_(std::tmpfile()), terminal_(dup(2)) { dup2(fileno(file_), 2); }
  ~StderrCapture() {
    dup2(terminal_, 2);
    ::close(terminal_);
    std::fclose(file_);
  }
  StderrCapture(const StderrCapture&) = delete;
  StderrCapture& operator=(const StderrCapture&) = delete;
  /// What came since the last call.
  std::string take() {
    std::string text(static_cast<std::size_t>(lseek(2, 0, SEEK_CUR)), '\0');
    text.resize(static_cast<std::size_t>(pread(2, text.data(), text.size(), 0)));
    EXPECT_EQ(ftruncate(2, 0), 0);
    lseek(2, 0, SEEK_SET);
    return text;
  }

 private:
  std::FILE* file_;
  int terminal_;
};

constexpr std::int64_t kBlock = 4096;

/// Bytes [begin, end) of the file.
struct Region {
  std::int64_t begin = 0, end = 0;
};

/// Two checkpoints, of steps 10 and 20; the cases change the newer one and put it right again.
class Corruption : public CheckpointTest {
 protected:
  Corruption() {
    save(group, directory, 10, {}, 10);
    save(group, directory, 20, {}, 20);
    previous = read_bytes(directory + "/step0000000010.h5");
    whole = read_bytes(path);
    const VerifiedFile file = read_verified(PosixFile(path, O_RDONLY));
    for (const TableEntry& e : file.entries) data.push_back({e.offset, e.offset + e.bytes});
    const TablePlace& t = file.header.table;
    table.push_back({t.path_offset, t.path_offset + t.entries * t.path_bytes});
    for (const std::int64_t at : {t.offset_offset, t.bytes_offset, t.sum_offset}) {
      table.push_back({at, at + t.entries * 8});
    }
    // Bytes from here up to the data of the first tensor are padding of HDF5's metadata block.
    metadata = {kUserBlockBytes, kUserBlockBytes + (std::int64_t{4} << 20)};
    metadata_used = metadata.end;
    while (whole[static_cast<std::size_t>(metadata_used - 1)] == '\0') --metadata_used;
    group.barrier();
  }
  ~Corruption() override {
    if (rank == 0) {
      std::printf("[   CASES  ] %d damaged files found, %d changes were none\n", found, same);
    }
  }

  std::int64_t size() const { return static_cast<std::int64_t>(whole.size()); }
  /// The full number of cases, or the sample that the ctest run takes.
  int cases(int full) const {
    if (all_faults()) return group.size() == 1 ? full : std::max(full / 10, 10);
    return group.size() == 1 ? std::max(full / 8, 12) : std::max(full / 100, 3);
  }
  std::int64_t below(std::int64_t n) {  // the same on all ranks
    return static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(n));
  }
  /// Half of them weighted by size, half with equal chances for each region.
  std::int64_t position_in(const std::vector<Region>& regions) {
    if (below(2) == 0) {
      const Region& r = regions[static_cast<std::size_t>(below(std::ssize(regions)))];
      return r.begin + below(r.end - r.begin);
    }
    std::int64_t all = 0;
    for (const Region& r : regions) all += r.end - r.begin;
    std::int64_t at = below(all);
    for (const Region& r : regions) {
      if (at < r.end - r.begin) return r.begin + at;
      at -= r.end - r.begin;
    }
    return regions.back().begin;
  }
  std::string original(std::int64_t at, std::int64_t n) const {
    return whole.substr(static_cast<std::size_t>(at), static_cast<std::size_t>(n));
  }

  /// The newest checkpoint is damaged (`what` says how): the previous one is used.
  void expect_fallback(const std::string& what) {
    group.barrier();
    const TimeLimit limit(60);
    std::string said;
    std::unique_ptr<CheckpointReader> reader;
    {
      StderrCapture capture;
      reader = open_newest(group, directory);
      said = capture.take();
    }
    ASSERT_NE(reader, nullptr) << what;
    EXPECT_EQ(reader->info().step, 10) << what;
    if (rank == 0) {
      EXPECT_THAT(said, HasSubstr("skipping step 20: ")) << what;
      EXPECT_THAT(said, HasSubstr(path)) << what;
    } else {
      EXPECT_EQ(said, "");
    }
    if (found++ % 50 == 0) expect_values(*reader, 10, what);
    group.barrier();
  }
  /// The newest checkpoint has all its values.
  void expect_newest(const std::string& what) {
    group.barrier();
    const auto reader = open_newest(group, directory);
    ASSERT_NE(reader, nullptr) << what;
    ASSERT_EQ(reader->info().step, 20) << what;
    expect_values(*reader, 20, what);
    group.barrier();
  }
  void expect_values(CheckpointReader& reader, std::int64_t step, const std::string& what) {
    EXPECT_EQ(reader.info().groups, sample_info(step).groups) << what;
    EXPECT_EQ(reader.info().texts, sample_info(step).texts) << what;
    EXPECT_EQ(reader.info().links, sample_info(step).links) << what;
    SampleState state(rank, group.size(), false);
    reader.read(state.tensors());
    EXPECT_EQ(state.wrong_elements(static_cast<int>(step)), 0) << what;
  }

  void put(std::int64_t at, const std::string& bytes) const {
    if (rank != 0) return;
    PosixFile(path, O_WRONLY).write(bytes.data(), std::ssize(bytes), at);
  }
  /// One case: other bytes at some places of the file.
  void with(const std::vector<std::pair<std::int64_t, std::string>>& changes,
            const std::string& what) {
    bool changed = false;
    for (const auto& [at, bytes] : changes) {
      changed = changed || original(at, std::ssize(bytes)) != bytes;
      put(at, bytes);
    }
    if (changed) {
      expect_fallback(what);
    } else {
      ++same;
      expect_newest(what);
    }
    for (const auto& [at, bytes] : changes) put(at, original(at, std::ssize(bytes)));
  }
  void flip(std::int64_t at) {
    const auto bit = below(8);
    std::string byte = original(at, 1);
    byte[0] = static_cast<char>(byte[0] ^ (1 << bit));
    with({{at, byte}}, fmt::format("bit {} of byte {}", bit, at));
  }
  /// Runs f on rank 0 in place of the newest file, then puts that back.
  template <class F>
  void instead(const std::string& what, F f) {
    if (rank == 0) {
      fs::rename(path, directory + "/aside");
      f();
    }
    expect_fallback(what);
    if (rank == 0) {
      fs::remove_all(path);
      fs::rename(directory + "/aside", path);
    }
    group.barrier();
  }

  const std::string path = directory + "/step0000000020.h5";
  std::string whole, previous;
  std::vector<Region> data, table;
  Region metadata;
  std::int64_t metadata_used = 0;
  std::mt19937_64 random{20240229};
  int found = 0, same = 0;
};

TEST_F(Corruption, FlippedBitsOfData) {
  for (int i = 0; i < cases(1000); ++i) flip(position_in(data));
  expect_newest("afterwards");
}

TEST_F(Corruption, FlippedBitsOfMetadata) {
  for (int i = 0; i < cases(1000); ++i) {
    const std::int64_t end = i % 2 == 0 ? metadata_used : metadata.end;
    flip(metadata.begin + below(end - metadata.begin));
  }
  expect_newest("afterwards");
}

TEST_F(Corruption, FlippedBitsOfTheHeader) {
  for (int i = 0; i < cases(1000); ++i) flip(below(kUserBlockBytes));
  expect_newest("afterwards");
}

TEST_F(Corruption, FlippedBitsOfTheTable) {
  for (int i = 0; i < cases(1000); ++i) flip(position_in(table));
  expect_newest("afterwards");
}

TEST_F(Corruption, ZeroedBlocks) {
  const std::int64_t last = size() / kBlock - 1;
  std::vector<std::int64_t> blocks = {0, 1, last};
  for (int i = 0; i < cases(400); ++i) {
    blocks.push_back(i % 4 == 0 ? below(last + 1) : position_in(data) / kBlock);
  }
  for (const std::int64_t block : blocks) {
    const std::int64_t at = std::min(block * kBlock, size() - kBlock);
    with({{at, std::string(kBlock, '\0')}}, fmt::format("4 KiB of zeros at byte {}", at));
  }
  EXPECT_GT(found, same);
}

TEST_F(Corruption, SwappedBlocks) {
  for (int i = 0; i < cases(400); ++i) {
    // Within the largest tensor, in sectors or pages; or anywhere between data.
    const std::int64_t bytes = i % 2 == 0 ? kBlock : 512;
    std::int64_t a = position_in(data), b = position_in(data);
    a = std::min(a / bytes * bytes, size() - bytes);
    b = std::min(b / bytes * bytes, size() - bytes);
    with({{a, original(b, bytes)}, {b, original(a, bytes)}},
         fmt::format("{} bytes at {} and {} exchanged", bytes, a, b));
  }
}

TEST_F(Corruption, StaleBlocks) {
  const std::int64_t shared = std::min(size(), std::ssize(previous));
  for (int i = 0; i < cases(400); ++i) {
    std::int64_t at = i % 4 == 0 ? below(shared) : position_in(data);
    at = std::min(at / kBlock * kBlock, shared - kBlock);
    with({{at, previous.substr(static_cast<std::size_t>(at), kBlock)}},
         fmt::format("4 KiB of the previous checkpoint at byte {}", at));
  }
  for (const Region& tensor : data) {  // a whole tensor of the previous step
    with({{tensor.begin, previous.substr(static_cast<std::size_t>(tensor.begin),
                                         static_cast<std::size_t>(tensor.end - tensor.begin))}},
         fmt::format("bytes {} to {} of the previous checkpoint", tensor.begin, tensor.end));
  }
}

TEST_F(Corruption, CutOffAndExtendedFiles) {
  std::vector<std::int64_t> lengths = {0, 1, 4095, 4096, 4097, metadata.end, size() - 1};
  for (int i = 0; i < cases(100); ++i) lengths.push_back(below(size()));
  for (const std::int64_t length : lengths) {
    if (rank == 0) fs::resize_file(path, static_cast<std::uintmax_t>(length));
    expect_fallback(fmt::format("cut off at byte {}", length));
    put(length, whole.substr(static_cast<std::size_t>(length)));
    group.barrier();
  }
  for (int i = 0; i < cases(100); ++i) {
    const std::int64_t more = i == 0 ? 1 : 1 + below(100'000);
    put(size(), std::string(static_cast<std::size_t>(more), i % 2 == 0 ? '\0' : 'x'));
    expect_fallback(fmt::format("{} bytes appended", more));
    if (rank == 0) fs::resize_file(path, whole.size());
  }
  expect_newest("afterwards");
}

TEST_F(Corruption, FilesThatAreSomethingElse) {
  instead("a directory", [&] { fs::create_directory(path); });
  instead("a pipe", [&] { ASSERT_EQ(mkfifo(path.c_str(), 0600), 0); });
  instead("an empty file", [&] { write_bytes(path, ""); });
  instead("a link to nowhere", [&] { fs::create_symlink("nowhere", path); });
  instead("a link to itself", [&] { fs::create_symlink(path, path); });
  instead("another step", [&] { fs::copy_file(directory + "/step0000000010.h5", path); });
  instead("a text", [&] { write_bytes(path, std::string(100'000, 'x')); });
  instead("an HDF5 file", [&] { write_bytes(path, whole.substr(kUserBlockBytes)); });
  instead("zeros", [&] { write_bytes(path, std::string(whole.size(), '\0')); });
  expect_newest("afterwards");
  // The file that has gone is no reason for a warning.
  if (rank == 0) fs::rename(path, directory + "/aside");
  group.barrier();
  EXPECT_EQ(open_newest(group, directory)->info().step, 10);
}

// Headers whose own hash is right, as another release or a bug of this one might write them.
TEST_F(Corruption, ForeignAndAbsurdHeaders) {
  constexpr std::int64_t kRecord = 2048, kBlockHash = kRecord + 12 * 8;
  const auto with_field = [&](std::int64_t index, std::int64_t value, const std::string& what) {
    std::string block = original(0, kUserBlockBytes);
    std::memcpy(block.data() + kRecord + index * 8, &value, 8);
    std::memset(block.data() + kBlockHash, 0, 8);
    const std::uint64_t hash =
        sum64(reinterpret_cast<const std::byte*>(block.data()), 1, kUserBlockBytes, 0);
    std::memcpy(block.data() + kBlockHash, &hash, 8);
    with({{0, block}}, what);
  };
  with_field(1, 2, "format version 2");
  with_field(2, 21, "step 21");
  with_field(3, size() + 1, "one byte more");
  for (const std::int64_t absurd : {std::int64_t{-1}, std::int64_t{0}, std::int64_t{1} << 24,
                                    std::int64_t{1} << 40, std::int64_t{1} << 62}) {
    for (std::int64_t field = 4; field < 12; ++field) {
      with_field(field, absurd, fmt::format("{} in field {}", absurd, field));
    }
  }
  expect_newest("afterwards");
  rusage used{};
  getrusage(RUSAGE_SELF, &used);
  EXPECT_LT(used.ru_maxrss, 1'000'000) << "kB: something was allocated for a damaged number";
}

}  // namespace
}  // namespace neox
