#pragma once
// Which rank does what: coordinates in the parallel layout, and the groups that follow from them.

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "comm/communicator.h"

namespace neox {

/// Ranks along each kind of parallelism.
struct ParallelLayout {
  int tensor = 1;
  int context = 1;
  int data = 1;
  int pipe = 1;

  int world() const { return tensor * context * data * pipe; }
  friend bool operator==(const ParallelLayout&, const ParallelLayout&) = default;
};

struct Coordinates {
  int tensor = 0;
  int context = 0;
  int data = 0;
  int pipe = 0;  ///< pipeline stage

  friend bool operator==(const Coordinates&, const Coordinates&) = default;
};

/// rank = tensor + T (context + C (data + D pipe)): tensor fastest, as GPT-NeoX orders ranks (pipe,
/// data, model). Both throw Error when out of range.
Coordinates coordinates_of(int rank, const ParallelLayout& layout);
int rank_of(const Coordinates& coordinates, const ParallelLayout& layout);

/// The host of every rank of `world`, in rank order, where this one runs on `host`. Collective.
std::vector<std::string> gather_hosts(Communicator& world, const std::string& host);
/// Host names for a job that is only planned: `per_node` consecutive ranks on "node0", "node1", ...
std::vector<std::string> planned_hosts(int ranks, int per_node);

/// The groups of this rank. Inside a group, ranks are ordered by the coordinate that varies (model:
/// pipe, then tensor; replicas: data, then context, then tensor). A group of one is a self
/// communicator. Group names are those of the functions. The constructor is collective over
/// `world`, which must outlive the object; every rank creates the groups in the same order.
class Topology {
 public:
  /// `hosts`: the host of every rank. Throws Error, naming the numbers and what would be legal,
  /// when the layout is not one of world.size() ranks.
  Topology(Communicator& world, const ParallelLayout& layout, std::vector<std::string> hosts);

  const ParallelLayout& layout() const { return layout_; }
  const Coordinates& coordinates() const { return here_; }
  int rank() const { return world_.rank(); }
  const std::vector<std::string>& hosts() const { return hosts_; }
  bool first_stage() const { return here_.pipe == 0; }
  bool last_stage() const { return here_.pipe == layout_.pipe - 1; }

  Communicator& world() const { return world_; }
  Communicator& tensor() const { return *tensor_; }    ///< all else equal
  Communicator& context() const { return *context_; }  ///< all else equal
  Communicator& data() const { return *data_; }        ///< all else equal
  Communicator& pipe() const { return *pipe_; }        ///< all else equal; rank() is the stage
  /// Everything that holds one copy of the model: same data and context, all pipe and tensor.
  Communicator& model() const { return *model_; }
  /// First and last stage, all else equal: the tied embedding. Of one on the stages between.
  Communicator& embedding() const { return *embedding_; }
  /// Ranks of this pipeline stage: all data, context and tensor.
  Communicator& replicas() const { return *replicas_; }
  /// Ranks with equal parameters: all data and context, same tensor and pipe. Without context
  /// parallelism it is data() itself.
  Communicator& data_context() const { return data_context_ ? *data_context_ : *data_; }
  /// The pipe group again, for activations (forward) and gradients (backward): messages between two
  /// ranks match in order within one of them and independently of the other.
  Communicator& pipe_forward() const { return *pipe_forward_; }
  Communicator& pipe_backward() const { return *pipe_backward_; }

  /// Every group once, for traffic tables. Groups of one included.
  std::vector<Communicator*> groups() const;

  /// The table of ranks, hosts and coordinates; one line per rank up to 16 ranks, beyond that one
  /// line per run of ranks that share host and stage. Same text on every rank.
  std::string describe() const;
  /// Empty, or what to tell the user about tensor groups that span nodes: which ranks and hosts,
  /// and what to change. Same text on every rank.
  std::string placement_warning() const;

 private:
  Communicator& world_;
  ParallelLayout layout_;
  Coordinates here_;
  std::vector<std::string> hosts_;
  std::unique_ptr<Communicator> tensor_, context_, data_, pipe_, model_, embedding_, replicas_,
      data_context_, pipe_forward_, pipe_backward_;
};

}  // namespace neox
