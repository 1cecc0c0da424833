#pragma once
// Start-up agreement: all ranks must run the same program on the same input.

#include <span>
#include <string>

#include "comm/communicator.h"

namespace neox {

/// Something that must be equal on all ranks.
struct Fact {
  std::string key;     ///< "configuration"; for the user
  std::string value;   ///< may have many lines; the first line that differs is shown
  std::string advice;  ///< what to do when ranks differ: "start all ranks with the same command"
};

/// Returns when all ranks passed equal facts. Otherwise every rank throws the same Error: it names
/// the ranks, with their hosts, whose facts are not the most common ones (at a tie: not those of
/// the lowest rank), the first fact and line in which the first of them differs, both texts, and
/// the advice. Collective; one small reduction when all is well.
void check_equal(Communicator& group, std::span<const Fact> facts);

/// "rank 3 (node1)"; "ranks 2, 4-7 (node0, node1)"; at most a few of each. `ranks` ascend; `hosts`
/// has the host of every rank of the job.
std::string name_ranks(std::span<const int> ranks, std::span<const std::string> hosts);

}  // namespace neox
