// Saving and loading a checkpoint of about 1 GB: the shapes of GPT-NeoX layers in f32, three
// states, one half of every tensor per rank (row-parallel weights by columns). Run under mpirun,
// e.g.
//   mpirun -np 2 bench_checkpoint [directory]

#include "io/checkpoint/checkpoint.h"

#include <array>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <string>
#include <vector>

#include <fmt/core.h>

#include "comm/mpi.h"
#include "core/base/log.h"
#include "core/tensor/buffer.h"

namespace {

using namespace neox;

class State {
 public:
  State(Communicator& world, std::int64_t hidden, int layers) : world_(world) {
    for (const char* kind : {"master", "exp_avg", "exp_avg_sq"}) {
      for (int layer = 0; layer < layers; ++layer) {
        const std::string at = fmt::format("/optimizer/{}/layers/{}/", kind, layer);
        add(at + "attention/query_key_value/weight", {3 * hidden, hidden}, 0);
        add(at + "attention/dense/weight", {hidden, hidden}, 1);
        add(at + "mlp/dense_h_to_4h/weight", {4 * hidden, hidden}, 0);
        add(at + "mlp/dense_4h_to_h/weight", {hidden, 4 * hidden}, 1);
      }
    }
  }
  std::vector<CheckpointTensor> tensors;

 private:
  void add(const std::string& path, const Shape& global, int axis) {
    Slice slice = Slice::whole(global);
    slice.extent.set(axis, global[axis] / world_.size());
    slice.offset.set(axis, slice.extent[axis] * world_.rank());
    const std::int64_t n = slice.extent.numel();
    memory_.emplace_back(slice.extent, DType::f32);
    for (std::int64_t i = 0; i < n; ++i) {
      memory_.back().tensor.ptr<float>()[i] = static_cast<float>(i);
    }
    tensors.push_back({path, {path, DType::f32, global, slice, memory_.back().tensor}, 0, n, {}});
  }
  Communicator& world_;
  std::vector<OwnedTensor> memory_;
};

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

int main(int argc, char** argv) {
  MpiEnvironment mpi(&argc, &argv);
  try {
    Communicator& world = mpi.world();
    set_log_rank(world.rank(), world.size());
    const std::string directory = argc > 1 ? argv[1] : "/tmp/neox-bench-checkpoint";
    State state(world, 1024, 7);
    CheckpointInfo info;
    for (const CheckpointIo io :
         {CheckpointIo::direct, CheckpointIo::hdf5, CheckpointIo::direct, CheckpointIo::hdf5}) {
      ++info.step;
      const SaveReport r = save_checkpoint(world, directory, state.tensors, info, {io, 1});
      const double gb = static_cast<double>(r.bytes) / 1e9;
      world.barrier();
      auto start = std::chrono::steady_clock::now();
      CheckpointReader reader(world, r.path);
      reader.read(state.tensors);
      const double load = seconds_since(start);
      start = std::chrono::steady_clock::now();
      reader.verify();
      const double verify = seconds_since(start);
      if (world.rank() == 0) {
        fmt::print(
            "{:<6} {:.2f} GB  save {:.3f} s = {:.2f} GB/s (layout {:.3f}, write {:.3f}, fsync "
            "{:.3f}, "
            "commit {:.3f})  load {:.3f} s = {:.2f} GB/s  verify {:.2f} GB/s\n",
            name_of(io), gb, r.seconds(), gb / r.seconds(), r.layout_seconds, r.write_seconds,
            r.sync_seconds, r.commit_seconds, load, gb / load, gb / verify);
        std::fflush(stdout);
      }
      world.barrier();
    }
    if (world.rank() == 0) std::filesystem::remove_all(directory);
  } catch (const std::exception& error) {
    log_error("{}", error.what());
    mpi.abort(1);
  }
}
