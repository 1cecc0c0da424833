// What checkpoints cost a run: GPT-2-124M in fp32 (1.5 GB of weights and AdamW's state), every rank
// with its part. In each round, beside each other: a plain sequential write of the same bytes, a
// save that training waits for, the HDF5 driver's, a save in the background of real training
// steps, and resuming in the same and in another layout beside a plain read. Medians of the rounds.
//
//   mpirun -np N bench_checkpoint [DIRECTORY [ROUNDS]]

#include "io/checkpoint/checkpoint.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <fcntl.h>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include <fmt/core.h>

#include "comm/mpi.h"
#include "core/base/log.h"
#include "core/config/describe.h"
#include "core/config/resolve.h"
#include "core/train/engine.h"
#include "core/train/run_saver.h"
#include "io/checkpoint/posix_file.h"

namespace {

using namespace neox;
using Clock = std::chrono::steady_clock;

constexpr std::int64_t kBlock = std::int64_t{4} << 20;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values.empty() ? 0.0 : values[values.size() / 2];
}

Config gpt2_124m(int ranks, int tensor, const std::string& directory) {
  Config config;
  config.model.num_layers = 12;
  config.model.hidden_size = 768;
  config.model.num_attention_heads = 12;
  config.model.seq_length = 256;
  config.model.max_position_embeddings = 1024;
  config.model.vocab_size = 50257;
  config.model.pos_emb = PositionEmbedding::learned;
  config.model.activation = Activation::gelu_tanh;
  config.parallel.model_parallel_size = tensor;
  config.parallel.zero_stage = 1;
  config.batch.train_micro_batch_size_per_gpu = 1;
  config.batch.gradient_accumulation_steps = 1;
  config.train.train_iters = 1000;
  config.data.data_path = "none";
  config.checkpoint.save = directory;
  config.checkpoint.keep_last_n_checkpoints = 1;
  config.checkpoint.checkpoint_factor = 1000;
  resolve(config, ranks);
  return config;
}

class Benchmark {
 public:
  Benchmark(Communicator& world, const std::string& directory)
      : world_(world),
        config_(gpt2_124m(world.size(), 1, directory)),
        other_config_(gpt2_124m(world.size(), world.size(), directory)),
        engine_(world, config_),
        other_(world, other_config_) {
    engine_.initialise(1);
    batch_.first_sample = engine_.topology().coordinates().data;
    for (std::int32_t i = 0; i < 256; ++i) {
      batch_.tokens.push_back(i * 7919 % 50257);
      batch_.labels.push_back((i + 1) * 7919 % 50257);
    }
    batch_.loss_mask.assign(batch_.tokens.size(), 1.0f);
  }

  void round() {
    saves();
    plain_write();
    background_save();
    resume("resume, same layout", engine_);
    resume("resume, other layout", other_);
    plain_read();
  }

  void print() const {
    if (world_.rank() != 0) return;
    const auto gb = static_cast<double>(bytes_) / 1e9;
    const auto of = [&](const std::string& name) { return median(seconds_.at(name)); };
    const auto line = [&](const std::string& name, const std::string& rival) {
      const double ratio = of(rival) / of(name);
      fmt::print("{:<26} {:8.3f} s {:6.2f} GB/s   {:.2f} x the speed of {}\n", name, of(name),
                 gb / of(name), ratio, rival);
    };
    fmt::print("{:.2f} GB, {} ranks, medians of {} rounds\n", gb, world_.size(),
               seconds_.at("save").size());
    for (const char* name : {"save", "save, HDF5 driver"}) line(name, "plain write");
    line("plain write", "plain write");
    line("resume, same layout", "plain read");
    line("resume, other layout", "plain read");
    line("verify", "plain read");
    line("plain read", "plain read");
    fmt::print(
        "background save: training stood still {:.3f} s = {:.1f} % of a save that it waits for\n"
        "  (layout {:.3f} s, commit {:.3f} s, the rest waiting for the copy before an update); "
        "{} steps of {:.3f} s ran beside it in {:.3f} s ({:+.3f} s)\n",
        of("stall"), 100 * of("stall") / of("save"), of("begin"), of("commit"),
        static_cast<int>(of("steps beside")), of("step"), of("steps' time"),
        of("steps' time") - of("steps beside") * of("step"));
  }

 private:
  // The slowest rank's time.
  double timed(const std::function<void()>& work) {
    world_.barrier();
    const auto start = Clock::now();
    work();
    double seconds = seconds_since(start);
    world_.host_all_reduce(std::span(&seconds, 1), ReduceOp::max);
    return seconds;
  }
  void time(const std::string& name, const std::function<void()>& work) {
    seconds_[name].push_back(timed(work));
  }
  double step() {
    return timed([&] {
      engine_.train_step({&batch_, 1}, 1.0 / (256.0 * world_.size()), progress_.step++, 1e-4);
    });
  }

  void saves() {
    for (const auto& [name, io] : {std::pair{"save", CheckpointIo::direct},
                                   std::pair{"save, HDF5 driver", CheckpointIo::hdf5}}) {
      ++progress_.step;
      time(name, [&] {
        const RunImage image = run_image(engine_.model(), engine_.optimizer(), config_,
                                         canonical_text(config_), progress_);
        const SaveReport report = save_checkpoint(world_, config_.checkpoint.save, image.tensors,
                                                  image.info, {io, 1, {}});
        bytes_ = report.bytes;
        path_ = report.path;
      });
    }
  }

  // Beside the checkpoint, which stays: both have to find room on the disk.
  void plain_write() {
    const std::string path = config_.checkpoint.save + "/plain";
    const std::vector<char> block(static_cast<std::size_t>(kBlock), 'x');
    time("plain write", [&] {
      if (world_.rank() != 0) return;
      PosixFile file(path, O_WRONLY | O_CREAT | O_TRUNC);
      for (std::int64_t at = 0; at < bytes_; at += kBlock) {
        file.write(block.data(), std::min(kBlock, bytes_ - at), at);
      }
      file.sync();
      file.close();
    });
    if (world_.rank() == 0) std::filesystem::remove(path);
  }

  void background_save() {
    if (!saver_) saver_.emplace(world_, engine_, config_, canonical_text(config_));
    step();
    std::vector<double> alone;
    for (int i = 0; i < 5; ++i) alone.push_back(step());
    seconds_["step"].push_back(median(alone));
    const double begin = timed([&] { saver_->begin(progress_); });
    double beside = 0, steps = 0, commit = 0;
    for (; saver_->pending(); ++steps) {
      beside += step();
      std::int64_t through = saver_->mine_through() ? 1 : 0;
      world_.host_all_reduce(std::span(&through, 1), ReduceOp::min);
      commit += timed([&] { saver_->between_steps(progress_, through == 1, false); });
    }
    seconds_["begin"].push_back(begin);
    seconds_["commit"].push_back(commit);
    double stall = saver_->stall_seconds();
    world_.host_all_reduce(std::span(&stall, 1), ReduceOp::max);
    seconds_["stall"].push_back(stall);
    seconds_["steps beside"].push_back(steps);
    seconds_["steps' time"].push_back(beside);
  }

  void resume(const std::string& name, Engine& engine) {
    time(name, [&] {
      const auto load = [&](CheckpointReader& reader) {
        load_run(reader, engine.model(), &engine.optimizer(), LoadScope::everything, engine.ops(),
                 engine.stream());
      };
      path_ = open_newest(world_, config_.checkpoint.save, load)->path();
    });
  }

  // Each rank its share of the file, from the page cache as the others.
  void plain_read() {
    CheckpointReader reader(world_, path_);
    time("verify", [&] { reader.verify(); });
    std::vector<char> block(static_cast<std::size_t>(kBlock));
    time("plain read", [&] {
      const PosixFile file(path_, O_RDONLY);
      const std::int64_t share = bytes_ / world_.size(), begin = share * world_.rank();
      for (std::int64_t at = begin; at < begin + share; at += kBlock) {
        file.read(block.data(), std::min(kBlock, begin + share - at), at);
      }
    });
  }

  Communicator& world_;
  Config config_, other_config_;
  Engine engine_, other_;
  std::optional<RunSaver> saver_;
  MicroBatch batch_;
  Progress progress_;
  std::int64_t bytes_ = 0;
  std::string path_;
  std::map<std::string, std::vector<double>> seconds_;
};

}  // namespace

int main(int argc, char** argv) {
  MpiEnvironment mpi(&argc, &argv);
  try {
    Communicator& world = mpi.world();
    set_log_rank(world.rank(), world.size());
    const std::string directory = argc > 1 ? argv[1] : "/tmp/neox-bench-checkpoint";
    const int rounds = argc > 2 ? std::stoi(argv[2]) : 5;
    {
      Benchmark benchmark(world, directory);
      for (int i = 0; i < rounds; ++i) benchmark.round();
      benchmark.print();
    }
    world.barrier();
    if (world.rank() == 0) std::filesystem::remove_all(directory);
  } catch (const std::exception& error) {
    log_error("{}", error.what());
    mpi.abort(1);
  }
}
