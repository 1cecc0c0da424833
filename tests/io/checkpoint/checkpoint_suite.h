#pragma once
// Cases that hold for any number of ranks; each program includes this once.

#include "tests/io/checkpoint/sample_state.h"

namespace neox {
namespace {

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

}  // namespace
}  // namespace neox
