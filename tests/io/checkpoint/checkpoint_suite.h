#pragma once
// Cases that hold for any number of ranks; each program includes this once.

#include <array>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "comm/mpi.h"
#include "core/tensor/buffer.h"
#include "io/checkpoint/checkpoint.h"
#include "io/checkpoint/posix_file.h"

namespace neox {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

std::string read_bytes(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

void write_bytes(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

std::int64_t begin_of(std::int64_t n, int rank, int ranks) {
  return n * rank / ranks;
}

/// A state with every kind of slice, cut for `ranks` ranks. Element i of tensor t has bits that
/// depend on (t, i, salt) only.
class SampleState {
 public:
  SampleState(int rank, int ranks, bool fill, int salt = 0) : rank_(rank), ranks_(ranks) {
    add_axis("/model/embed_in/weight", DType::bf16, {11, 6}, 0);           // rows
    add_axis("/model/layers/0/mlp/dense/weight", DType::bf16, {7, 9}, 1);  // columns
    add_axis("/model/layers/0/cube", DType::f16, {3, 8, 5}, 1);            // the middle axis
    add_axis("/optimizer/large", DType::f32, {301, 1003}, 0);
    add_replica("/model/norm/weight", DType::f32, {5});
    add_replica("/optimizer/tokens", DType::i64, {3, 2});
    add_partition("/optimizer/exp_avg/cube", DType::f32, {3, 8, 5});  // ZeRO: part of the box only
    add_bands("/model/gate_up/weight", DType::bf16, {16, 3});         // two row bands per rank
    add_replica("/optimizer/adam_step", DType::i64, {});
    if (fill)
      each([&](std::size_t t, std::int64_t i, std::byte* at, std::size_t bytes) {
        const std::uint64_t v = bits(t, i, salt);
        std::memcpy(at, &v, bytes);
      });
  }
  std::vector<CheckpointTensor>& tensors() { return tensors_; }

  std::int64_t wrong_elements(int salt = 0) {
    std::int64_t wrong = 0;
    each([&](std::size_t t, std::int64_t i, std::byte* at, std::size_t bytes) {
      const std::uint64_t v = bits(t, i, salt);
      wrong += std::memcmp(at, &v, bytes) != 0;
    });
    return wrong;
  }

 private:
  static std::uint64_t bits(std::size_t tensor, std::int64_t i, int salt) {
    std::uint64_t x = static_cast<std::uint64_t>(i) * 0x9e3779b97f4a7c15u + tensor * 77777u +
                      static_cast<std::uint64_t>(salt) * 0x51ed2701u;
    x ^= x >> 29;
    return x * 0xbf58476d1ce4e5b9u;
  }
  void add(const std::string& path, DType dtype, const Shape& global, const Slice& slice,
           std::int64_t begin, std::int64_t end, bool partial, std::size_t id) {
    const std::int64_t held = partial ? end - begin : slice.extent.numel();
    memory_.emplace_back(Shape{held}, dtype);
    const Shard shard{path, dtype, global, slice, memory_.back().tensor};
    tensors_.push_back(
        {path, shard, begin, end, {{"name", path.substr(1)}, {"tp_dim", begin * 0}}});
    ids_.push_back(id);
  }
  void add_axis(const std::string& path, DType dtype, const Shape& global, int axis) {
    Slice slice = Slice::whole(global);
    slice.offset.set(axis, begin_of(global[axis], rank_, ranks_));
    slice.extent.set(axis, begin_of(global[axis], rank_ + 1, ranks_) - slice.offset[axis]);
    add(path, dtype, global, slice, 0, slice.extent.numel(), false, next_++);
  }
  void add_replica(const std::string& path, DType dtype, const Shape& global) {
    const std::int64_t n = global.numel();
    add(path, dtype, global, Slice::whole(global), begin_of(n, rank_, ranks_),
        begin_of(n, rank_ + 1, ranks_), false, next_++);
  }
  void add_partition(const std::string& path, DType dtype, const Shape& global) {
    const std::int64_t n = global.numel();
    add(path, dtype, global, Slice::whole(global), begin_of(n, rank_, ranks_),
        begin_of(n, rank_ + 1, ranks_), true, next_++);
  }
  void add_bands(const std::string& path, DType dtype, const Shape& global) {
    const std::int64_t half = global[0] / 2;
    for (const std::int64_t band : {std::int64_t{0}, half}) {
      Slice slice = Slice::whole(global);
      slice.offset.set(0, band + begin_of(half, rank_, ranks_));
      slice.extent.set(0, begin_of(half, rank_ + 1, ranks_) - begin_of(half, rank_, ranks_));
      add(path, dtype, global, slice, 0, slice.extent.numel(), false, next_);
    }
    ++next_;
  }
  // f(tensor id, global linear index, address, bytes) for every held element.
  template <class F>
  void each(F f) {
    for (std::size_t t = 0; t < tensors_.size(); ++t) {
      const CheckpointTensor& tensor = tensors_[t];
      const Shard& shard = tensor.shard;
      const bool partial = shard.local.numel() != shard.slice.extent.numel();
      const std::int64_t first = partial ? tensor.write_begin : 0;
      for (std::int64_t i = 0; i < shard.local.numel(); ++i) {
        std::int64_t rest = first + i, index = 0, scale = 1;
        for (int axis = shard.global.rank() - 1; axis >= 0; --axis) {
          index += (shard.slice.offset[axis] + rest % shard.slice.extent[axis]) * scale;
          rest /= shard.slice.extent[axis];
          scale *= shard.global[axis];
        }
        f(ids_[t], index, shard.local.data + static_cast<std::size_t>(i) * size_of(shard.dtype),
          size_of(shard.dtype));
      }
    }
  }

  int rank_, ranks_;
  std::size_t next_ = 0;
  std::vector<CheckpointTensor> tensors_;
  std::vector<std::size_t> ids_;
  std::vector<OwnedTensor> memory_;
};

CheckpointInfo sample_info(std::int64_t step) {
  CheckpointInfo info;
  info.step = step;
  info.consumed_samples = 8 * step;
  info.consumed_tokens = 1024 * step;
  info.groups["/optimizer"] = {{"type", "adam"}, {"eps", 1e-8}, {"adam_step", step}};
  info.groups["/data"] = {{"epoch", std::int64_t{3}}, {"nothing", ""}};
  info.groups["/"] = {{"run", "test"}};
  info.texts["/config/ini"] = "[model]\nnum_layers = 2\n# ünïcode\n";
  info.texts["/config/empty"] = "";
  info.texts["/config/long"] = std::string(100'001, 'x');
  info.links["/model/embed_out/weight"] = "/model/embed_in/weight";
  return info;
}

class CheckpointTest : public ::testing::Test {
 protected:
  CheckpointTest() {
    std::string name = "/tmp/neox-checkpoint-XXXXXX";
    if (rank == 0) {
      EXPECT_NE(mkdtemp(name.data()), nullptr);
    }
    directory = group.host_broadcast(name, 0);
  }
  ~CheckpointTest() override {
    testing_hooks::fail_call = nullptr;
    group.barrier();
    if (rank == 0) fs::remove_all(directory);
  }
  SaveReport save(Communicator& ranks, const std::string& to, std::int64_t step,
                  const SaveOptions& options = {}, int salt = 0) {
    SampleState state(ranks.rank(), ranks.size(), true, salt);
    return save_checkpoint(ranks, to, state.tensors(), sample_info(step), options);
  }
  SaveReport save(std::int64_t step) { return save(group, directory, step); }
  static std::string error_of(const std::function<void()>& f) {
    try {
      f();
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  }
  std::vector<std::string> files() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(directory)) {
      names.push_back(entry.path().filename().string());
    }
    std::sort(names.begin(), names.end());
    return names;
  }

  std::unique_ptr<Communicator> group_ = make_world_communicator();
  Communicator& group = *group_;
  const int rank = group.rank(), size = group.size();
  std::string directory;
};

TEST_F(CheckpointTest, EverythingComesBack) {
  const SaveReport report = save(1000);
  EXPECT_EQ(report.path, directory + "/step0000001000.h5");
  EXPECT_EQ(static_cast<std::uintmax_t>(report.bytes), fs::file_size(report.path));
  EXPECT_THAT(files(), ::testing::ElementsAre("latest", "step0000001000.h5"));
  EXPECT_EQ(read_bytes(directory + "/latest"), "step0000001000.h5\n");
  CheckpointReader reader(group, report.path);
  const CheckpointInfo want = sample_info(1000);
  EXPECT_EQ(reader.info().step, 1000);
  EXPECT_EQ(reader.info().consumed_samples, 8000);
  EXPECT_EQ(reader.info().consumed_tokens, 1024000);
  EXPECT_EQ(reader.info().groups, want.groups);
  EXPECT_EQ(reader.info().texts, want.texts);
  EXPECT_EQ(reader.info().links, want.links);
  EXPECT_EQ(reader.tensors().size(), 9u);
  const StoredTensor* tied = reader.find("/model/embed_out/weight");
  ASSERT_NE(tied, nullptr);
  EXPECT_EQ(tied->path, "/model/embed_in/weight");
  EXPECT_EQ(tied->dtype, DType::bf16);
  EXPECT_EQ(tied->shape.str(), "[11, 6]");
  EXPECT_EQ(std::get<std::string>(tied->attributes.at("name")), "model/embed_in/weight");
  EXPECT_EQ(reader.find("/model/nothing"), nullptr);
  SampleState state(rank, size, false);
  reader.read(state.tensors());
  EXPECT_EQ(state.wrong_elements(), 0);
  reader.verify();
}

// Groups of 1 … size ranks save and load the same files in all combinations.
TEST_F(CheckpointTest, AnyLayoutReadsAnyOtherAndBytesDependOnNeither) {
  std::vector<std::unique_ptr<Communicator>> groups;
  for (int ranks = 1; ranks <= size; ++ranks) {
    groups.push_back(group.split([&](int r) { return SplitPlace{r < ranks ? 0 : 1, r}; }, "part"));
    if (rank >= ranks) groups.back().reset();
  }
  for (std::size_t i = 0; i < groups.size(); ++i) {
    for (const CheckpointIo io : {CheckpointIo::direct, CheckpointIo::hdf5}) {
      const auto to = fmt::format("{}/{}-{}", directory, i + 1, name_of(io));
      if (groups[i]) save(*groups[i], to, 7, {io, 0});
    }
  }
  group.barrier();
  const std::string bytes = read_bytes(directory + "/1-direct/step0000000007.h5");
  EXPECT_GT(bytes.size(), 1'000'000u);
  for (std::size_t writer = 0; writer < groups.size(); ++writer) {
    for (const CheckpointIo io : {CheckpointIo::direct, CheckpointIo::hdf5}) {
      const auto path =
          fmt::format("{}/{}-{}/step0000000007.h5", directory, writer + 1, name_of(io));
      EXPECT_TRUE(read_bytes(path) == bytes) << path;
    }
    for (const auto& ranks : groups) {
      if (!ranks) continue;
      CheckpointReader reader(*ranks,
                              fmt::format("{}/{}-direct/step0000000007.h5", directory, writer + 1));
      SampleState state(ranks->rank(), ranks->size(), false);
      reader.read(state.tensors());
      EXPECT_EQ(state.wrong_elements(), 0);
    }
  }
}

TEST_F(CheckpointTest, TheSameStateTwiceGivesTheSameBytes) {
  save(group, directory + "/a", 5);
  save(group, directory + "/b", 5);
  save(group, directory + "/b", 5);  // replaces
  EXPECT_TRUE(read_bytes(directory + "/a/step0000000005.h5") ==
              read_bytes(directory + "/b/step0000000005.h5"));
}

TEST_F(CheckpointTest, ElementsMustBeWrittenExactlyOnce) {
  const auto error_when = [&](const std::function<void(std::vector<CheckpointTensor>&)>& change) {
    SampleState state(rank, size, true);
    change(state.tensors());
    return error_of(
        [&] { save_checkpoint(group, directory, state.tensors(), sample_info(1), {}); });
  };
  EXPECT_THAT(error_when([&](auto& t) {
                if (rank == size - 1) t[4].write_end = 4;
              }),
              HasSubstr("/model/norm/weight [5] is not written exactly once: 1 of its 5 elements"));
  EXPECT_THAT(
      error_when([&](auto& t) {
        if (rank == 0) t.push_back(t[0]);
      }),
      HasSubstr("/model/embed_in/weight [11, 6] is not written exactly once: the box at [0, 0]"));
  EXPECT_THAT(error_when([&](auto& t) {
                if (rank == size - 1) t[0].path = "model";
              }),
              HasSubstr(size > 1 ? "not written exactly once" : "'model' is no path"));
  EXPECT_THAT(error_when([&](auto& t) { t[0].path = "/integrity/x"; }), HasSubstr("is reserved"));
  EXPECT_THAT(error_when([&](auto& t) { t[0].path = "/model"; }), HasSubstr("both a group and"));
  EXPECT_THAT(error_when([&](auto& t) {
                if (rank == size - 1) t[0].shard.slice.offset.set(0, 9);
              }),
              HasSubstr("is not inside [11, 6]"));
  if (size > 1) {
    EXPECT_THAT(error_when([&](auto& t) {
                  if (rank == 1) t[0].attributes["name"] = "other";
                }),
                HasSubstr("/model/embed_in/weight has other attributes on rank 1"));
  }
  EXPECT_THAT(files(), ::testing::IsEmpty());
}

TEST_F(CheckpointTest, ReadingRefusesWhatDoesNotFit) {
  const std::string path = save(1).path;
  CheckpointReader reader(group, path);
  const auto error_when = [&](const std::function<void(CheckpointTensor&)>& change) {
    SampleState state(rank, size, false);
    if (rank == size - 1) change(state.tensors()[0]);
    return error_of([&] { reader.read(state.tensors()); });
  };
  EXPECT_THAT(error_when([](auto& t) { t.path = "/model/unknown"; }),
              HasSubstr("holds no tensor /model/unknown"));
  EXPECT_THAT(error_when([](auto& t) { t.shard.global.set(0, 12); }),
              HasSubstr("/model/embed_in/weight is bf16 [11, 6]"));
  EXPECT_THAT(error_when([](auto& t) { t.shard.dtype = t.shard.local.dtype = DType::f16; }),
              HasSubstr("and f16 [11, 6] in this run"));
}

// A rank that reads only a piece makes the others verify the rest with it.
TEST_F(CheckpointTest, PartialReadsAreVerifiedToo) {
  const std::string path = save(1).path;
  const auto read_some = [&] {
    CheckpointReader reader(group, path);
    SampleState state(rank, size, false);
    std::vector<CheckpointTensor> some(1, state.tensors()[3]);
    if (rank != 0) some.clear();
    OwnedTensor two({2, 1003}, DType::f32);
    if (rank == 0) {
      some[0].shard.slice = {{17, 0}, {2, 1003}};
      some[0].shard.local = two;
    }
    reader.read(some);
  };
  EXPECT_NO_THROW(read_some());
  const CheckpointReader reader(group, path);
  const std::int64_t end = reader.find("/optimizer/large")->file_offset + 301 * 1003 * 4;
  group.barrier();
  if (rank == 0) {
    std::string bytes = read_bytes(path);
    bytes[static_cast<std::size_t>(end) - 3] ^= 4;
    write_bytes(path, bytes);
  }
  group.barrier();
  EXPECT_THAT(error_of(read_some), HasSubstr("is damaged: the sum of /optimizer/large"));
}

TEST_F(CheckpointTest, FallsBackToTheNewestWholeCheckpoint) {
  EXPECT_EQ(open_newest(group, directory + "/absent"), nullptr);
  for (const std::int64_t step : {10, 20, 30})
    save(group, directory, step, {}, static_cast<int>(step));
  if (rank == 0) {
    std::string bytes = read_bytes(directory + "/step0000000030.h5");
    bytes[bytes.size() / 2 + 2'000'000] ^= 1;
    write_bytes(directory + "/step0000000030.h5", bytes);
    fs::resize_file(directory + "/step0000000020.h5", 5'000'000);
  }
  group.barrier();
  const auto reader = open_newest(group, directory);
  ASSERT_NE(reader, nullptr);
  EXPECT_EQ(reader->info().step, 10);
  SampleState state(rank, size, false);
  reader->read(state.tensors());
  EXPECT_EQ(state.wrong_elements(10), 0);
  EXPECT_THAT(error_of([&] { open_step(group, directory, 20); }), HasSubstr("(cut off?)"));
  EXPECT_THAT(error_of([&] { open_step(group, directory, 15); }),
              HasSubstr("there are steps 30, 20, 10"));
  EXPECT_EQ(open_step(group, directory, 10)->info().step, 10);
  group.barrier();
  if (rank == 0) fs::remove(directory + "/step0000000010.h5");
  group.barrier();
  EXPECT_THAT(error_of([&] { open_newest(group, directory); }), HasSubstr("can be loaded"));
}

TEST_F(CheckpointTest, RetentionKeepsTheLast) {
  for (const std::int64_t step : {1, 2, 3, 9}) save(step);
  save(group, directory, 4, {CheckpointIo::direct, 2});
  EXPECT_THAT(files(), ::testing::ElementsAre("latest", "step0000000003.h5", "step0000000004.h5",
                                              "step0000000009.h5"));
}

// ---- faults
// ----------------------------------------------------------------------------------------

int calls_left = 0;
bool fired = false;
int fault_after(const char*, const std::string&) {
  if (calls_left-- != 0) return 0;
  fired = true;
  return EIO;
}

// The k-th system call of one rank fails, for every k until a save gets through.
TEST_F(CheckpointTest, EveryFailingCallEndsInOneErrorAndAWholeCheckpoint) {
  save(group, directory, 1, {}, 1);
  for (int failing = 0; failing < size; ++failing) {
    bool done = false;
    for (int k = 0; !done; ++k) {
      ASSERT_LT(k, 3000);
      fired = false;
      calls_left = k;
      testing_hooks::fail_call = rank == failing ? fault_after : nullptr;
      std::string message = error_of([&] { save(group, directory, 2, {}, 2); });
      testing_hooks::fail_call = nullptr;
      std::int64_t any = fired ? 1 : 0;
      group.host_all_reduce(std::span(&any, 1), ReduceOp::max);
      done = any == 0;
      if (done) {
        EXPECT_EQ(message, "");
      }
      const auto messages = group.host_all_gather(message);
      EXPECT_THAT(messages, ::testing::Each(message));
      if (!message.empty()) {
        EXPECT_THAT(message, HasSubstr(group.size() == 1
                                           ? "step 2 failed: "
                                           : fmt::format("step 2 failed on rank {} (", failing)));
        EXPECT_THAT(message, HasSubstr("Input/output error"));
      }
      // Failures after the rename leave the new checkpoint, earlier ones only the old.
      const auto reader = open_newest(group, directory);
      SampleState state(rank, size, false);
      reader->read(state.tensors());
      EXPECT_EQ(state.wrong_elements(static_cast<int>(reader->info().step)), 0);
      for (const std::string& name : files()) EXPECT_FALSE(name.starts_with(".tmp")) << name;
      EXPECT_TRUE(fs::exists(directory + "/step0000000001.h5"));
      group.barrier();
      if (rank == 0) fs::remove(directory + "/step0000000002.h5");
      group.barrier();
    }
  }
}

}  // namespace
}  // namespace neox
