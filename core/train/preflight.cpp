#include "core/train/preflight.h"

#include <algorithm>
#include <array>

#include "comm/activity.h"
#include "comm/device_world.h"
#include "comm/dry_run_communicator.h"
#include "comm/mpi.h"
#include "comm/nccl_library.h"
#include "core/base/log.h"
#include "core/parallel/layout.h"
#include "core/train/checkpoint_policy.h"
#include "core/train/data_source.h"
#include "core/train/engine.h"
#include "core/train/preflight_host.h"
#include "core/train/preflight_probe.h"
#include "core/train/preflight_report.h"
#include "core/train/run_setup.h"
#include "core/train/run_state.h"
#include "io/checkpoint/checkpoint.h"
#include "io/checkpoint/hdf5_file.h"
#include "kernels/device_choice.h"
#include "kernels/device_facts.h"

namespace neox {
namespace {

constexpr double kVisibleSeconds = 5.0;  // the caches of a network file system
constexpr std::int64_t kLeastTestFile = std::int64_t{4} << 20;
constexpr std::int64_t kMostTestFile = std::int64_t{256} << 20;

// Runs `measure`; what it throws is the problem.
template <class F>
void note(std::string& problem, F&& measure) {
  try {
    measure();
  } catch (const std::exception& error) {
    if (problem.empty()) problem = error.what();
  }
}

bool everywhere(Communicator& world, bool mine) {
  double well = mine ? 1.0 : 0.0;
  world.host_all_reduce(std::span(&well, 1), ReduceOp::min);
  return well > 0.0;
}

class Preflight {
 public:
  Preflight(Communicator& world, Communicator& node, const Config& config,
            const PreflightOptions& options)
      : world_(world), node_(node), config_(config), options_(options) {
    mine_.rank = world.rank();
    mine_.host = options.host;
    mine_.leads_node = node.rank() == 0;
  }

  PreflightReport run() {
    measure_node();
    measure_memory_plan();
    read_data();
    try_checkpoint_directory();
    Activity::set("preflight: clocks");
    measure_clock(mine_, world_);
    compute_and_communicate();
    if (options_.alter) options_.alter(mine_);
    PreflightReport report;
    for (const std::string& text : world_.host_all_gather(to_text(mine_))) {
      report.ranks.push_back(facts_from_text(text));
    }
    needs_.slow_threshold = config_.system.slow_node_threshold;
    report.findings = judge(report.ranks, needs_);
    report.exit_code = exit_code_of(report.findings);
    report.text = preflight_text(report.ranks, report.findings);
    return report;
  }

 private:
  void measure_node() {
    Activity::set("preflight: node");
    measure_host(mine_);
    mine_.versions = {{"MPI", mpi_library_version()}, {"HDF5", hdf5_library_version()}};
    note(mine_.device_problem, [&] {
      const DeviceChoice choice = choose_device_kind(config_.system.device);
      mine_.why_not_cuda = choice.why_not_cuda;
      device_ = choose_device(node_, choice.kind);
      mine_.device = device_.is_cpu()                        ? "cpu"
                     : device_.kind == DeviceKind::simulated ? "simulated"
                                                             : "cuda";
      mine_.device_place = device_runtime(device_.kind).physical_name(device_.index);
      const auto facts = device_facts(device_);
      if (!facts) return;
      mine_.device_model = facts->model;
      mine_.device_free = static_cast<std::int64_t>(facts->free_bytes);
      mine_.versions.insert(facts->versions.begin(), facts->versions.end());
      if (config_.system.transport == "mpi") return;
      std::string reason;
      NcclLibrary* const nccl = nccl_library(reason);
      mine_.versions["NCCL"] = nccl != nullptr ? nccl->version() : "none: " + reason;
    });
  }

  // What an engine of this rank would allocate, and the bytes of all ranks' part in a checkpoint.
  void measure_memory_plan() {
    Activity::set("preflight: memory plan");
    note(mine_.device_problem, [&] { plan_memory(); });
    world_.host_all_reduce(std::span(&needs_.checkpoint_bytes, 1), ReduceOp::sum);
  }

  void plan_memory() {
    const auto alone = make_dry_run_communicator(world_.rank(), world_.size());
    Engine engine(*alone, config_, EngineMode::dry_run, device_);
    const RunImage image = run_image(engine.model(), engine.optimizer(), config_, "", {});
    for (const CheckpointTensor& t : image.tensors) {
      needs_.checkpoint_bytes +=
          (t.write_end - t.write_begin) * static_cast<std::int64_t>(size_of(t.shard.dtype));
    }
    if (!mine_.device_problem.empty()) return;  // it is not known where the rank would compute
    const MemoryPlan plan = engine.memory_plan();
    if (device_.is_cpu()) {
      mine_.host_needed = static_cast<std::int64_t>(plan.total() + plan.checkpoint_copy);
    } else {
      mine_.device_needed = static_cast<std::int64_t>(plan.total() - plan.host_copies);
      mine_.host_needed = static_cast<std::int64_t>(plan.host_copies + plan.checkpoint_copy);
    }
  }

  void read_data() {
    Activity::set_unlimited("preflight: opening the data");  // may build an index of hours
    note(mine_.data_problem, [&] {
      mine_.data = fingerprint(open_run_data(config_));
      if (mine_.data.ends_with('\n')) mine_.data.pop_back();
      std::replace(mine_.data.begin(), mine_.data.end(), '\n', ',');
    });
    world_.barrier();  // while no limit applies
  }

  void count_checkpoints() {
    const CheckpointConfig& c = config_.checkpoint;
    needs_.keep_last = c.keep_last_n_checkpoints;
    std::int64_t written = 1;  // the last
    for (std::int64_t step = 0; step < config_.train.train_iters; ++step) {
      if (!checkpoint_due(c, step)) continue;
      if (needs_.keep_last == 0 || is_milestone(c, step)) ++written;
    }
    needs_.at_the_end = written + std::max<std::int64_t>(0, needs_.keep_last - 1);
    note(mine_.checkpoint_problem,
         [&] { needs_.existing = static_cast<std::int64_t>(find_checkpoints(c.save).size()); });
    world_.host_all_reduce(std::span(&needs_.existing, 1), ReduceOp::max);
  }

  void try_checkpoint_directory() {
    Activity::set("preflight: checkpoint.save");
    const std::string& directory = config_.checkpoint.save;
    needs_.checkpoint_directory = directory;
    if (directory.empty()) return;
    std::optional<MarkerFile> marker;
    if (world_.rank() == 0) {
      note(mine_.checkpoint_problem, [&] {
        const auto self = make_self_communicator();
        prepare_checkpoint_directory(*self, directory);
        marker.emplace(directory);
      });
    }
    // Where rank 0 fails, the others have nothing to try.
    const std::string path = world_.host_broadcast(marker ? marker->path() : "", 0);
    if (path.empty()) return;
    if (!appears(path, kVisibleSeconds)) {
      mine_.checkpoint_problem = fmt::format(
          "checkpoint.save = {} is not the directory that rank 0 has under this name; it must be "
          "on a file system that all nodes share",
          directory);
    }
    world_.barrier();
    marker.reset();
    count_checkpoints();
    mine_.disk_free = disk_free(directory);
    write_test_file(directory);
  }

  // All nodes at once, as they write a checkpoint.
  void write_test_file(const std::string& directory) {
    std::int64_t nodes = mine_.leads_node ? 1 : 0;
    world_.host_all_reduce(std::span(&nodes, 1), ReduceOp::sum);
    if (!mine_.leads_node || !mine_.checkpoint_problem.empty()) return;
    const std::int64_t bytes =
        std::clamp(needs_.checkpoint_bytes / nodes, kLeastTestFile, kMostTestFile);
    note(mine_.checkpoint_problem, [&] {
      const double seconds = timed_write(directory, bytes);
      mine_.speeds[std::string(info_of(Speed::disk).key)] =
          1e-9 * static_cast<double>(bytes) / seconds;
    });
  }

  // Needs every rank's device: where one is missing, it is known by now what is wrong.
  void compute_and_communicate() {
    if (!everywhere(world_, mine_.device_problem.empty())) return;
    Activity::set("preflight: device");
    note(mine_.device_problem,
         [&] { measure_device(mine_, device_, config_.precision.precision); });
    Activity::set("preflight: network");
    const double kind = static_cast<double>(device_.kind);
    std::array<double, 2> kinds = {kind, -kind};
    world_.host_all_reduce(std::span<double>(kinds), ReduceOp::max);
    const bool alike = kinds[0] == -kinds[1];
    if (!everywhere(world_, mine_.device_problem.empty()) || !alike) return;
    std::optional<DeviceWorld> device_world;
    note(mine_.device_problem, [&] {  // the same Error everywhere
      device_world.emplace(world_, node_, device_, device_world_options(config_.system));
    });
    if (!everywhere(world_, device_world.has_value())) return;
    Communicator& group = device_world->group();
    const Topology topology(group, parallel_layout(config_.parallel, world_.size()),
                            gather_hosts(world_, options_.host));
    measure_network(mine_, topology, device_);
  }

  Communicator& world_;
  Communicator& node_;
  const Config& config_;
  const PreflightOptions& options_;
  Device device_;
  RankFacts mine_;
  RunNeeds needs_;
};

}  // namespace

PreflightReport run_preflight(Communicator& world, Communicator& node, const Config& config,
                              const PreflightOptions& options) {
  check_same_program(world, config);
  return Preflight(world, node, config, options).run();
}

}  // namespace neox
