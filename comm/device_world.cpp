#include "comm/device_world.h"

#include <limits>
#include <map>
#include <vector>

#include "comm/host_name.h"

namespace neox {
namespace {

// Why this rank cannot use NCCL, looking at itself; "": it can.
std::string own_obstacle(NcclLibrary* library, const std::string& reason, Device device) {
  if (device.is_cpu()) return "NCCL works with GPUs, and this run computes on the CPU";
  return library == nullptr ? reason : "";
}

// "": every rank of the node has a device of its own.
std::string shared_devices(Communicator& world, Communicator& node, Device device) {
  const std::string physical = device_runtime(device.kind).physical_name(device.index);
  const auto names = node.host_all_gather(physical);
  const auto ranks = node.host_all_gather(fmt::format("{}", world.rank()));
  std::map<std::string, std::string> users;
  std::map<std::string, int> counts;
  for (std::size_t i = 0; i < names.size(); ++i) {
    if (names[i].empty()) continue;
    std::string& text = users[names[i]];
    text += (text.empty() ? "" : ", ") + ranks[i];
    ++counts[names[i]];
  }
  for (const auto& [name, count] : counts) {
    if (count == 1) continue;
    return fmt::format("ranks {} on {} share the GPU {}", users[name], host_name(), name);
  }
  return "";
}

// The first text that any rank has, on all of them.
std::string first_of(Communicator& world, const std::string& text) {
  constexpr std::int64_t kNobody = std::numeric_limits<std::int64_t>::max();
  std::int64_t first = text.empty() ? kNobody : world.rank();
  world.host_all_reduce(std::span(&first, 1), ReduceOp::min);
  if (first == kNobody) return "";
  return world.host_broadcast(text, static_cast<int>(first));
}

}  // namespace

Device choose_device(const Communicator& node, DeviceKind kind) {
  const int visible = device_runtime(kind).device_count();
  require(visible >= 1, "this process sees no device like {}", name_of(Device{kind, 0}));
  return {kind, node.rank() % visible};
}

DeviceWorld::DeviceWorld(Communicator& world, Communicator& node, Device device,
                         const DeviceWorldOptions& options)
    : world_(world) {
  if (world.size() == 1) {
    description_ = "one rank";
    return;
  }
  std::string obstacle;
  NcclLibrary* library = options.library;
  if (options.transport != DeviceTransport::mpi) {
    std::string reason;
    if (library == nullptr && device.kind == DeviceKind::cuda) library = nccl_library(reason);
    if (library == nullptr && reason.empty()) {
      reason = fmt::format("NCCL does not know the device {}", name_of(device));
    }
    obstacle = own_obstacle(library, reason, device);
    if (!obstacle.empty()) obstacle = fmt::format("{} (rank {})", obstacle, world.rank());
    obstacle = first_of(world, obstacle);
    if (obstacle.empty() && !options.may_share_devices) {
      obstacle = first_of(world, shared_devices(world, node, device));
    }
  }
  if (options.transport == DeviceTransport::nccl) {
    require(obstacle.empty(),
            "NCCL was asked for and cannot be used: {}. NCCL needs its library and one GPU per "
            "rank: start as many ranks on a node as it has GPUs, or let the ranks communicate by "
            "MPI through host memory",
            obstacle);
  }
  if (options.transport == DeviceTransport::mpi || !obstacle.empty()) {
    description_ = device.is_cpu() ? "MPI" : "MPI through host memory";
    if (!obstacle.empty() && !device.is_cpu()) description_ += ", because " + obstacle;
    return;
  }
  nccl_ = make_nccl_communicator(world, device, *library, options.nccl);
  description_ = "NCCL " + library->version();
}

}  // namespace neox
