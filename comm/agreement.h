#pragma once
// Start-up agreement: all ranks must run the same program on the same input.

#include <span>
#include <string>

#include "comm/communicator.h"

namespace neox {

/// Something that must be equal on all ranks.
struct Fact {
  std::string key;     ///< "the configuration"; for the user
  std::string value;   ///< may have many lines; the first line that differs is shown
  std::string advice;  ///< what to do when ranks differ: "start all ranks with the same command"
};

/// Returns when all ranks passed equal facts. Otherwise every rank throws the same Error that names
/// the ranks and hosts that differ from the most common answer (rank 0's at a tie), the first fact
/// and line in which the first of them differs, both values, and the advice. `host`: this rank's.
/// Collective; two small reductions when all is well.
void check_equal(Communicator& group, const std::string& host, std::span<const Fact> facts);

}  // namespace neox
