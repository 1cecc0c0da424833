#pragma once
// Short measurements of a preflight: this rank's device, and the network between ranks.

#include <span>
#include <string>
#include <vector>

#include "comm/topology.h"
#include "core/train/preflight_facts.h"
#include "kernels/backend.h"

namespace neox {

/// Speed::product (of the run's compute dtype) and Speed::memory: medians of some rounds of a few
/// hundredths of a second each. Throws Error when the device fails.
void measure_device(RankFacts& facts, Device device, DType dtype);

/// Speeds of the groups of the run, with its own communicators, and of messages between nodes.
/// `device`: of their tensors. Collective.
void measure_network(RankFacts& facts, const Topology& topology, Device device);

/// In each round, the peer of every rank, or -1. Neighbouring nodes pair up, the last with the
/// first, ranks of equal place on their nodes with each other; over the rounds every node meets
/// both neighbours (the only one, with two nodes). `hosts`: of every rank. No rounds on one node.
std::vector<std::vector<int>> node_pairs(std::span<const std::string> hosts);

/// Seconds that the clock of each node's first rank is before rank 0's, by the round trip that took
/// least. `world`: over MPI; `leads_node`: this rank is measured. Collective.
void measure_clock(RankFacts& facts, Communicator& world);

}  // namespace neox
