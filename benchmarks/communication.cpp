// Gradient reduction over MPI: 498 MB of f32 (GPT-2 small) in buckets. Run under mpirun, e.g.
//   mpirun -np 2 bench_communication [--busy]
// Prints time and bus bandwidth; --busy adds one computing thread per rank and prints how much of
// its speed is left while the ranks communicate.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <functional>
#include <thread>
#include <vector>

#include <fmt/core.h>

#include "comm/mpi.h"
#include "core/base/log.h"
#include "core/tensor/buffer.h"

namespace {

using namespace neox;
using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Counts rounds of arithmetic on its own core until told to stop.
class BusyThread {
 public:
  BusyThread() : thread_([this] { run(); }) {}
  ~BusyThread() {
    stop_ = true;
    thread_.join();
  }
  std::int64_t rounds() const { return rounds_; }

 private:
  void run() {
    double x = 1.0;
    while (!stop_) {
      for (int i = 0; i < 1000; ++i) x = x * 0.999999 + 1e-9;
      rounds_ = rounds_ + 1;
      if (x < 0) return;
    }
  }
  std::atomic<bool> stop_{false};
  std::atomic<std::int64_t> rounds_{0};
  std::thread thread_;
};

struct Result {
  double best = 1e30, median = 0;
  double compute_share = 0;  // of the busy thread's speed alone
};

Result measure(Communicator& world, const BusyThread* busy, double alone,
               const std::function<void()>& body) {
  std::vector<double> times;
  body();
  const auto all_start = Clock::now();
  const std::int64_t rounds = busy != nullptr ? busy->rounds() : 0;
  for (int i = 0; i < 5; ++i) {
    world.barrier();
    const auto start = Clock::now();
    body();
    double t = seconds_since(start);
    world.host_all_reduce(std::span(&t, 1), ReduceOp::max);
    times.push_back(t);
  }
  std::sort(times.begin(), times.end());
  Result result{times.front(), times[times.size() / 2], 0};
  if (busy != nullptr) {
    result.compute_share =
        static_cast<double>(busy->rounds() - rounds) / seconds_since(all_start) / alone;
  }
  return result;
}

void report(Communicator& world, const std::string& name, const Result& r, double bus_bytes) {
  if (world.rank() != 0) return;
  fmt::print("{:<32} best {:.4f} s  median {:.4f} s  bus {:6.2f} GB/s", name, r.best, r.median,
             bus_bytes / r.best / 1e9);
  if (r.compute_share > 0) fmt::print("  computing at {:.0f} %", 100 * r.compute_share);
  fmt::print("\n");
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  MpiEnvironment mpi(&argc, &argv);
  try {
    Communicator& world = mpi.world();
    const bool busy = argc > 1 && std::strcmp(argv[1], "--busy") == 0;
    const std::int64_t n = 124'475'904 / world.size() * world.size();
    const std::int64_t part = n / world.size();
    OwnedTensor gradient({n}, DType::f32), shard({part}, DType::f32);
    const auto stream = make_stream({});
    for (float& v : gradient.tensor.span<float>()) v = 1.0f;
    fill_zero(*stream, shard);
    const double bytes = static_cast<double>(n) * 4.0, ranks = world.size();
    std::vector<Work> works;

    std::unique_ptr<BusyThread> compute;
    double alone = 0;
    if (busy) {
      compute = std::make_unique<BusyThread>();
      world.barrier();
      const auto start = Clock::now();
      const std::int64_t before = compute->rounds();
      std::this_thread::sleep_for(std::chrono::milliseconds(500));
      alone = static_cast<double>(compute->rounds() - before) / seconds_since(start);
    }
    const auto run = [&](const std::string& name, double bus_bytes, const auto& body) {
      report(world, name, measure(world, compute.get(), alone, body), bus_bytes);
    };
    for (const std::int64_t bucket_mib : {1, 4, 25, 500}) {
      const std::int64_t bucket = bucket_mib << 18;
      run(fmt::format("all_reduce, {} MiB buckets", bucket_mib), bytes * 2 * (ranks - 1) / ranks,
          [&] {
            works.clear();
            for (std::int64_t at = 0; at < n; at += bucket) {
              works.push_back(world.all_reduce(gradient.tensor.slice(at, std::min(n, at + bucket)),
                                               ReduceOp::sum, *stream));
            }
            for (const Work& work : works) work.wait(*stream);
          });
    }
    fill_zero(*stream, gradient);
    run("reduce_scatter", bytes * (ranks - 1) / ranks,
        [&] { world.reduce_scatter(gradient, shard, ReduceOp::sum, *stream).wait(*stream); });
    run("all_gather in place", bytes * (ranks - 1) / ranks, [&] {
      const Tensor own = gradient.tensor.slice(world.rank() * part, (world.rank() + 1) * part);
      world.all_gather(own, gradient, *stream).wait(*stream);
    });
    OwnedTensor tiny({1}, DType::f32);
    tiny.tensor.ptr<float>()[0] = 0;
    run("10 all_reduces of one element", 0, [&] {
      for (int i = 0; i < 10; ++i) world.all_reduce(tiny, ReduceOp::sum, *stream).wait(*stream);
    });
  } catch (const std::exception& error) {
    log_error("{}", error.what());
    mpi.abort(1);
  }
}
