#pragma once
// What a group communicated: calls and payload bytes by purpose and kind of operation.

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace neox {

enum class Collective : std::uint8_t {
  all_reduce,
  reduce_scatter,
  all_gather,
  all_to_all,
  broadcast,
  send,
  recv,
  barrier,
  host,
  count
};
std::string_view name_of(Collective collective);

/// What a transfer is for. The caller says so with TrafficScope; barriers and the host control
/// plane always count as `control`.
enum class Purpose : std::uint8_t {
  other,            ///< nothing was said
  gradients,        ///< reductions of gradients between replicas
  parameters,       ///< gathering sharded parameters
  tensor_forward,   ///< activations inside tensor-parallel layers
  tensor_backward,  ///< their gradients
  context_forward,  ///< keys, values and what else context parallelism exchanges
  context_backward,
  pipeline,      ///< activations and gradients between pipeline stages
  embedding,     ///< gradients of the tied embedding between first and last stage
  loss,          ///< the output layer's maxima, sums and losses
  norm,          ///< gradient norms and clipping
  verification,  ///< replica checks
  checkpoint,
  control,
  count
};
std::string_view name_of(Purpose purpose);

constexpr std::size_t kCollectives = static_cast<std::size_t>(Collective::count);
constexpr std::size_t kPurposes = static_cast<std::size_t>(Purpose::count);

/// Calls and payload bytes, as this rank passed them in: the reduced tensor of all_reduce, the
/// whole input of reduce_scatter and all_to_all, this rank's part of all_gather, the tensor of
/// broadcast, send and recv. What crosses the network follows by the factors of link_bytes().
struct Traffic {
  std::int64_t calls = 0;
  std::int64_t bytes = 0;

  Traffic& operator+=(const Traffic& o);
  Traffic& operator-=(const Traffic& o);
  friend bool operator==(const Traffic&, const Traffic&) = default;
};

/// Bytes that this rank must at least send for such payloads in a group of `size`, with n = size:
/// all_reduce 2 (n-1)/n, reduce_scatter and all_to_all (n-1)/n, all_gather (n-1), broadcast and
/// send 1 (a group of one: 0), recv 0, in units of the payload (Thakur et al. 2005, §4).
/// Not for `host`: 0.
double link_bytes(Collective collective, const Traffic& traffic, int size);

/// A snapshot of all counters; the difference of two is the traffic between them.
struct TrafficCounts {
  std::array<std::array<Traffic, kCollectives>, kPurposes> cells{};

  Traffic& at(Purpose purpose, Collective collective);
  const Traffic& at(Purpose purpose, Collective collective) const;
  Traffic total(Purpose purpose) const;
  Traffic total(Collective collective) const;

  TrafficCounts& operator+=(const TrafficCounts& o);
  TrafficCounts& operator-=(const TrafficCounts& o);
  friend bool operator==(const TrafficCounts&, const TrafficCounts&) = default;
};

/// One group's row of the table.
struct GroupTraffic {
  std::string group;
  int size = 1;
  TrafficCounts counts;
};

/// A table of every (group, purpose, operation) that was used: calls, payload, and the bytes this
/// rank sent at least; both divided by `steps`. Groups of one are left out, they send nothing.
std::string traffic_table(std::span<const GroupTraffic> groups, std::int64_t steps = 1);

}  // namespace neox
