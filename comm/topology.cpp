#include "comm/topology.h"

namespace neox {
namespace {

void check_layout(const ParallelLayout& layout) {
  require(layout.tensor >= 1 && layout.context >= 1 && layout.data >= 1 && layout.pipe >= 1,
          "tensor-parallel {}, context-parallel {}, data-parallel {} and pipeline-parallel size {} "
          "must all be at least 1",
          layout.tensor, layout.context, layout.data, layout.pipe);
}

// "8 ranks, 16 ranks": what a layout of `model` ranks per replica can run on, next to `ranks`.
std::string legal_rank_counts(int model, int ranks) {
  const int below = ranks / model * model;
  return below == 0 ? fmt::format("{}", model) : fmt::format("{} or {}", below, below + model);
}

void check_world(const ParallelLayout& layout, int ranks) {
  if (layout.world() == ranks) return;
  const int model = layout.tensor * layout.context * layout.pipe;
  const std::string sizes =
      fmt::format("tensor {} x context {} x data {} x pipe {} = {} ranks, but {} were started",
                  layout.tensor, layout.context, layout.data, layout.pipe, layout.world(), ranks);
  if (ranks % model == 0) {
    fail("{}: start {} ranks, or use data = {} on these {}", sizes, layout.world(), ranks / model,
         ranks);
  }
  fail(
      "{}: start {} ranks; or, as one copy of the model takes tensor x context x pipe = {} ranks, "
      "another multiple of {} such as {}; or choose sizes whose product divides {}",
      sizes, layout.world(), model, model, legal_rank_counts(model, ranks), ranks);
}

// Color and key of a rank in the groups along some coordinates: `color` is one number for all that
// the members share.
using Along = SplitPlace (*)(const Coordinates& at, const ParallelLayout& layout);

std::unique_ptr<Communicator> make_group(Communicator& world, const ParallelLayout& layout,
                                         const std::string& name, Along along) {
  return world.split([&](int rank) { return along(coordinates_of(rank, layout), layout); }, name);
}

// The rank that the same coordinates with zeros in the varying places have is the group's color.
int color(const Coordinates& shared, const ParallelLayout& layout) {
  return rank_of(shared, layout);
}

SplitPlace along_tensor(const Coordinates& c, const ParallelLayout& l) {
  return {color({0, c.context, c.data, c.pipe}, l), c.tensor};
}
SplitPlace along_context(const Coordinates& c, const ParallelLayout& l) {
  return {color({c.tensor, 0, c.data, c.pipe}, l), c.context};
}
SplitPlace along_data(const Coordinates& c, const ParallelLayout& l) {
  return {color({c.tensor, c.context, 0, c.pipe}, l), c.data};
}
SplitPlace along_pipe(const Coordinates& c, const ParallelLayout& l) {
  return {color({c.tensor, c.context, c.data, 0}, l), c.pipe};
}
SplitPlace along_model(const Coordinates& c, const ParallelLayout& l) {
  return {color({0, c.context, c.data, 0}, l), c.pipe * l.tensor + c.tensor};
}
SplitPlace along_replicas(const Coordinates& c, const ParallelLayout& l) {
  return {color({0, 0, 0, c.pipe}, l), rank_of({c.tensor, c.context, c.data, 0}, l)};
}
SplitPlace along_data_context(const Coordinates& c, const ParallelLayout& l) {
  return {color({c.tensor, 0, 0, c.pipe}, l), c.data * l.context + c.context};
}
SplitPlace along_embedding(const Coordinates& c, const ParallelLayout& l) {
  const bool member = l.pipe > 1 && (c.pipe == 0 || c.pipe == l.pipe - 1);
  return {member ? color({c.tensor, c.context, c.data, 0}, l) : -1, c.pipe};
}

}  // namespace

Coordinates coordinates_of(int rank, const ParallelLayout& layout) {
  check_layout(layout);
  require(0 <= rank && rank < layout.world(), "there is no rank {} in a layout of {} ranks", rank,
          layout.world());
  Coordinates c;
  c.tensor = rank % layout.tensor;
  rank /= layout.tensor;
  c.context = rank % layout.context;
  rank /= layout.context;
  c.data = rank % layout.data;
  c.pipe = rank / layout.data;
  return c;
}

int rank_of(const Coordinates& c, const ParallelLayout& layout) {
  check_layout(layout);
  const auto inside = [](int value, int size) { return 0 <= value && value < size; };
  require(
      inside(c.tensor, layout.tensor) && inside(c.context, layout.context) &&
          inside(c.data, layout.data) && inside(c.pipe, layout.pipe),
      "coordinates (tensor {}, context {}, data {}, pipe {}) are outside the layout {} x {} x {} "
      "x {}",
      c.tensor, c.context, c.data, c.pipe, layout.tensor, layout.context, layout.data, layout.pipe);
  return c.tensor + layout.tensor * (c.context + layout.context * (c.data + layout.data * c.pipe));
}

std::vector<std::string> gather_hosts(Communicator& world, const std::string& host) {
  return world.host_all_gather(host);
}

std::vector<std::string> planned_hosts(int ranks, int per_node) {
  require(ranks >= 1 && per_node >= 1, "{} ranks with {} on each node make no job", ranks,
          per_node);
  std::vector<std::string> hosts;
  for (int rank = 0; rank < ranks; ++rank) hosts.push_back(fmt::format("node{}", rank / per_node));
  return hosts;
}

Topology::Topology(Communicator& world, const ParallelLayout& layout,
                   std::vector<std::string> hosts)
    : world_(world), layout_(layout), hosts_(std::move(hosts)) {
  check_layout(layout_);
  check_world(layout_, world_.size());
  require(hosts_.size() == static_cast<std::size_t>(world_.size()),
          "{} host names were given for {} ranks", hosts_.size(), world_.size());
  here_ = coordinates_of(world_.rank(), layout_);
  tensor_ = make_group(world_, layout_, "tensor", along_tensor);
  context_ = make_group(world_, layout_, "context", along_context);
  data_ = make_group(world_, layout_, "data", along_data);
  pipe_ = make_group(world_, layout_, "pipe", along_pipe);
  model_ = make_group(world_, layout_, "model", along_model);
  embedding_ = make_group(world_, layout_, "embedding", along_embedding);
  replicas_ = make_group(world_, layout_, "replicas", along_replicas);
  if (layout_.context > 1) {
    data_context_ = make_group(world_, layout_, "data_context", along_data_context);
  }
  pipe_forward_ = make_group(world_, layout_, "pipe_forward", along_pipe);
  pipe_backward_ = make_group(world_, layout_, "pipe_backward", along_pipe);
}

std::vector<Communicator*> Topology::groups() const {
  std::vector<Communicator*> all = {
      &world_,      tensor_.get(),    context_.get(),  data_.get(),         pipe_.get(),
      model_.get(), embedding_.get(), replicas_.get(), pipe_forward_.get(), pipe_backward_.get()};
  if (data_context_ != nullptr) all.push_back(data_context_.get());
  return all;
}

}  // namespace neox
