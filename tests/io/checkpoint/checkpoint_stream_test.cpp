#include "io/checkpoint/checkpoint_stream.h"

#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace neox {
namespace {

namespace fs = std::filesystem;

class CheckpointStreamTest : public ::testing::Test {
 protected:
  CheckpointStreamTest() : self_(make_self_communicator()) {
    std::string name = (fs::temp_directory_path() / "neox_stream_XXXXXX").string();
    require(mkdtemp(name.data()) != nullptr, "cannot create {}", name);
    folder_ = name;
    fs::create_directory(folder_ + "/streamed");
    std::mt19937 random(3);
    const auto add = [&](const char* path, DType dtype, Shape shape, Attributes attributes) {
      specs_.push_back({path, dtype, shape, std::move(attributes)});
      values_.emplace_back(static_cast<std::size_t>(shape.numel()) * size_of(dtype));
      for (std::byte& b : values_.back()) b = static_cast<std::byte>(random() & 0x3f);
    };
    add("/model/b/weight", DType::bf16, {7, 5}, {{"name", std::string("b.weight")}});
    add("/model/a/weight", DType::f32, {1200, 500}, {{"vocab_size", std::int64_t{1199}}});
    add("/model/a/bias", DType::f32, {3}, {});
    info_.step = 5;
    info_.texts["/config/effective"] = "[model]\n";
    info_.texts["/config/empty"] = "";
    info_.groups["/optimizer"] = {{"lr", 0.5}};
    info_.links["/model/c"] = "/model/a/bias";
  }
  ~CheckpointStreamTest() override { fs::remove_all(folder_); }

  ConstTensor tensor(std::size_t i) const {
    return {values_[i].data(), specs_[i].shape, specs_[i].dtype, Device{}};
  }
  static std::string read(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    EXPECT_TRUE(in.good()) << path;
    return {std::istreambuf_iterator<char>(in), {}};
  }
  bool nothing_left() const { return fs::is_empty(folder_ + "/streamed"); }

  std::unique_ptr<Communicator> self_;
  std::string folder_;
  std::vector<CheckpointTensorSpec> specs_;
  std::vector<std::vector<std::byte>> values_;
  CheckpointInfo info_;
};

TEST_F(CheckpointStreamTest, WritesTheFileThatASaveWrites) {
  std::vector<CheckpointTensor> all;
  for (std::size_t i = 0; i < specs_.size(); ++i) {
    const CheckpointTensorSpec& spec = specs_[i];
    CheckpointTensor t;
    t.path = spec.path;
    t.shard = {spec.path, spec.dtype, spec.shape, Slice::whole(spec.shape),
               Tensor(values_[i].data(), spec.shape, spec.dtype, Device{})};
    t.write_end = spec.shape.numel();
    t.attributes = spec.attributes;
    all.push_back(std::move(t));
  }
  const SaveReport saved = save_checkpoint(*self_, folder_ + "/saved", all, info_);
  CheckpointStream stream(folder_ + "/streamed", specs_, info_);
  for (const std::size_t i : {1, 2, 0}) stream.write(specs_[i].path, tensor(i));
  const std::string path = stream.commit();
  EXPECT_EQ(path, folder_ + "/streamed/step0000000005.h5");
  EXPECT_EQ(read(path), read(saved.path));
  EXPECT_EQ(read(folder_ + "/streamed/latest"), read(folder_ + "/saved/latest"));
  CheckpointReader(*self_, path).verify();
}

TEST_F(CheckpointStreamTest, LeavesNothingUnlessCommitted) {
  {
    CheckpointStream stream(folder_ + "/streamed", specs_, info_);
    stream.write(specs_[0].path, tensor(0));
    EXPECT_FALSE(nothing_left());
    EXPECT_THROW(stream.write(specs_[0].path, tensor(0)), Error) << "twice";
    EXPECT_THROW(stream.write(specs_[1].path, tensor(0)), Error) << "another shape";
    EXPECT_THROW(stream.write("/model/z", tensor(0)), Error) << "not announced";
    EXPECT_THROW(stream.commit(), Error) << "tensors are missing";
  }
  EXPECT_TRUE(nothing_left());
}

TEST_F(CheckpointStreamTest, RefusesWhatNoFileCanBe) {
  auto twice = specs_;
  twice.push_back(specs_[0]);
  EXPECT_THROW(CheckpointStream(folder_ + "/streamed", twice, info_), Error);
  auto empty = specs_;
  empty[0].shape = {0, 5};
  EXPECT_THROW(CheckpointStream(folder_ + "/streamed", empty, info_), Error);
  std::ofstream(folder_ + "/file") << "no folder";
  EXPECT_THROW(CheckpointStream(folder_ + "/file", specs_, info_), Error);
  EXPECT_TRUE(nothing_left());
}

}  // namespace
}  // namespace neox
