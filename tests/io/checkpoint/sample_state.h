#pragma once
// A sample state to save, and the fixture of the checkpoint tests.

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

inline std::string read_bytes(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

inline void write_bytes(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

inline std::int64_t begin_of(std::int64_t n, int rank, int ranks) {
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

inline CheckpointInfo sample_info(std::int64_t step) {
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

}  // namespace
}  // namespace neox
