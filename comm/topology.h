#pragma once
// Where a rank stands in a parallel layout, and the groups it talks in.
//
// Ranks are numbered with the tensor coordinate fastest, then context, data, pipe: tensor groups,
// which talk most, are neighbours and so share a node.

#include <array>
#include <memory>
#include <string>
#include <vector>

#include "comm/communicator.h"

namespace neox {

/// How many ranks each kind of parallelism uses; world() of them in all.
struct ParallelLayout {
  int tensor = 1;
  int context = 1;
  int data = 1;
  int pipe = 1;
  int world() const { return tensor * context * data * pipe; }
  bool operator==(const ParallelLayout&) const = default;
};

struct Coordinates {
  int tensor = 0;
  int context = 0;
  int data = 0;
  int pipe = 0;
  bool operator==(const Coordinates&) const = default;
};

Coordinates coordinates_of(int rank, const ParallelLayout& layout);
int rank_of(const Coordinates& at, const ParallelLayout& layout);

/// The groups of a rank. Members of a group differ only in the coordinates named; they are in rank
/// order.
enum class GroupKind : std::uint8_t {
  tensor,
  context,
  data,
  pipe_forward,   ///< the stages: activations
  pipe_backward,  ///< the same stages: gradients of activations
  model,          ///< pipe x tensor: together they hold one model
  stage,          ///< tensor x context x data: they hold one pipeline stage
  embedding,      ///< first and last stage; other stages are alone
  count
};
std::string_view name_of(GroupKind kind);

/// Ranks of the group of `kind` that `rank` is in, ascending.
std::vector<int> group_members(GroupKind kind, int rank, const ParallelLayout& layout);

class Topology {
 public:
  /// Makes every group of `world`, in one order on all ranks. Throws Error when the layout has
  /// another number of ranks than the world. `world` must outlive this. Collective.
  Topology(Communicator& world, const ParallelLayout& layout);

  const ParallelLayout& layout() const { return layout_; }
  const Coordinates& at() const { return at_; }
  Communicator& world() const { return world_; }
  Communicator& group(GroupKind kind) const { return *groups_[static_cast<std::size_t>(kind)]; }
  Communicator& tensor() const { return group(GroupKind::tensor); }
  Communicator& data() const { return group(GroupKind::data); }
  Communicator& embedding() const { return group(GroupKind::embedding); }

  bool first_stage() const { return at_.pipe == 0; }
  bool last_stage() const { return at_.pipe == layout_.pipe - 1; }

 private:
  Communicator& world_;
  ParallelLayout layout_;
  Coordinates at_;
  std::array<std::unique_ptr<Communicator>, static_cast<std::size_t>(GroupKind::count)> groups_;
};

/// Ranks with hosts and coordinates, a line each; long runs of ranks that follow one rule are cut
/// short. `hosts`: of every rank.
std::string describe(const ParallelLayout& layout, const std::vector<std::string>& hosts);

/// One line for each tensor group whose ranks are not on one host: its messages then cross the
/// network. Empty when all is well.
std::vector<std::string> placement_warnings(const ParallelLayout& layout,
                                            const std::vector<std::string>& hosts);

}  // namespace neox
