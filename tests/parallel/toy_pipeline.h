#pragma once
// A model of numbers run by a schedule, as the executor would run it: an implementation of what
// schedule.h says about actions that shares no code with the validator or the simulator.

#include <cstdint>
#include <string>
#include <vector>

#include "core/parallel/schedule.h"

namespace neox {

struct ToyResult {
  std::string problem;  // empty: every action could be done
  // [stages * chunks]: depends on every value that a weight gradient adds up, and on their order.
  std::vector<std::uint64_t> gradients;
  std::vector<std::uint64_t> losses;  // [micro_batches]
  std::uint64_t head_gradient = 0;    // computed with the losses; depends on their order
  bool operator==(const ToyResult&) const = default;
};

/// `waiting_sends`: a message is gone only when its receive is posted.
ToyResult run_toy_pipeline(const Schedule& schedule, bool waiting_sends);
/// What it must be: all virtual stages one after the other, micro-batch by micro-batch.
ToyResult run_toy_model(int virtual_stages, int micro_batches, bool with_backward);

}  // namespace neox
