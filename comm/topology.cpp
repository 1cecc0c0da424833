#include "comm/topology.h"

#include <algorithm>

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace neox {

Coordinates coordinates_of(int rank, const ParallelLayout& layout) {
  Coordinates at;
  at.tensor = rank % layout.tensor;
  rank /= layout.tensor;
  at.context = rank % layout.context;
  rank /= layout.context;
  at.data = rank % layout.data;
  at.pipe = rank / layout.data;
  return at;
}

int rank_of(const Coordinates& at, const ParallelLayout& layout) {
  return ((at.pipe * layout.data + at.data) * layout.context + at.context) * layout.tensor +
         at.tensor;
}

std::string_view name_of(GroupKind kind) {
  constexpr std::string_view kNames[] = {"tensor",        "context", "data",  "pipe",
                                         "pipe backward", "model",   "stage", "embedding"};
  return kNames[static_cast<std::size_t>(kind)];
}

namespace {

bool in_group(GroupKind kind, const Coordinates& a, const Coordinates& b,
              const ParallelLayout& layout) {
  const bool tensor = a.tensor == b.tensor, context = a.context == b.context;
  const bool data = a.data == b.data, pipe = a.pipe == b.pipe;
  const auto at_end = [&](const Coordinates& c) {
    return c.pipe == 0 || c.pipe == layout.pipe - 1;
  };
  switch (kind) {
    case GroupKind::tensor:
      return context && data && pipe;
    case GroupKind::context:
      return tensor && data && pipe;
    case GroupKind::data:
      return tensor && context && pipe;
    case GroupKind::pipe_forward:
    case GroupKind::pipe_backward:
      return tensor && context && data;
    case GroupKind::model:
      return context && data;
    case GroupKind::stage:
      return pipe;
    case GroupKind::embedding:
      return tensor && context && data && (pipe || (at_end(a) && at_end(b)));
    case GroupKind::count:
      break;
  }
  fail("internal error: no such group");
}

}  // namespace

std::vector<int> group_members(GroupKind kind, int rank, const ParallelLayout& layout) {
  const Coordinates mine = coordinates_of(rank, layout);
  std::vector<int> members;
  for (int other = 0; other < layout.world(); ++other) {
    if (in_group(kind, mine, coordinates_of(other, layout), layout)) members.push_back(other);
  }
  return members;
}

Topology::Topology(Communicator& world, const ParallelLayout& layout)
    : world_(world), layout_(layout), at_(coordinates_of(world.rank(), layout)) {
  require(
      layout.world() == world.size(),
      "the layout has {} ranks (tensor {} x context {} x data {} x pipe {}), but the job has {}",
      layout.world(), layout.tensor, layout.context, layout.data, layout.pipe, world.size());
  for (std::size_t kind = 0; kind < groups_.size(); ++kind) {
    groups_[kind] =
        world.subgroup(group_members(static_cast<GroupKind>(kind), world.rank(), layout));
  }
}

namespace {

constexpr int kShownRanks = 32;

std::string rank_line(int rank, const ParallelLayout& layout, const std::string& host) {
  const Coordinates at = coordinates_of(rank, layout);
  return fmt::format("  rank {} on {}: pipe {}, data {}, context {}, tensor {}\n", rank, host,
                     at.pipe, at.data, at.context, at.tensor);
}

}  // namespace

std::string describe(const ParallelLayout& layout, const std::vector<std::string>& hosts) {
  std::string text;
  const int ranks = layout.world();
  for (int rank = 0; rank < ranks; ++rank) {
    if (ranks > kShownRanks && rank == kShownRanks / 2) {
      const int left_out = ranks - kShownRanks;
      text += fmt::format(
          "  ... {} more ranks in the same order (tensor fastest, then context, "
          "data, pipe) ...\n",
          left_out);
      rank += left_out;
    }
    text += rank_line(rank, layout, hosts.at(static_cast<std::size_t>(rank)));
  }
  return text;
}

std::vector<std::string> placement_warnings(const ParallelLayout& layout,
                                            const std::vector<std::string>& hosts) {
  std::vector<std::string> warnings;
  for (int first = 0; first < layout.world(); first += layout.tensor) {
    std::vector<std::string> seen;
    for (int rank = first; rank < first + layout.tensor; ++rank) {
      const std::string& host = hosts.at(static_cast<std::size_t>(rank));
      if (std::find(seen.begin(), seen.end(), host) == seen.end()) seen.push_back(host);
    }
    if (seen.size() == 1) continue;
    warnings.push_back(fmt::format(
        "the tensor-parallel ranks {} to {} are on different hosts ({}), so every layer waits for "
        "the network; start ranks so that {} neighbours share a host (SLURM: "
        "--distribution=block, --ntasks-per-node a multiple of {}), or lower "
        "parallel.model_parallel_size",
        first, first + layout.tensor - 1, fmt::join(seen, ", "), layout.tensor, layout.tensor));
  }
  return warnings;
}

}  // namespace neox
