#pragma once

#include <string>
#include <vector>

#include "core/parallel/schedule.h"

namespace neox {

/// Every problem of a schedule, one line each, naming stage, action number and action; empty when
/// it computes the step and can't hang:
///  - complete: every stage does forward, backward_input and backward_weight (or backward) once for
///    each micro-batch and chunk; messages exactly where two stages are neighbours, once each;
///  - ordered: backward after forward, weights after input, receive before use, send right after
///    its computation and before the next of its channel; losses, and backwards of each chunk, in
///    the order of the micro-batches, so that gradients are added in one order in all schedules;
///  - matched: the sends and receives of a channel between two stages are in the same order;
///  - free of deadlock, with buffered sends and with sends that wait for their receive;
///  - within activation_bound() and receive_bound().
/// Later kinds of check are left out when earlier ones fail.
std::vector<std::string> validate(const Schedule& schedule);

}  // namespace neox
