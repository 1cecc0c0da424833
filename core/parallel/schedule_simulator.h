#pragma once
// When every action of a schedule happens, given what a pass costs. Times are whole numbers of any
// unit, so that formulas hold exactly.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/parallel/schedule.h"

namespace neox {

/// Time of one micro-batch in one chunk (not in a whole stage), and of a message between stages.
struct PassCosts {
  std::int64_t forward = 1;
  std::int64_t backward_input = 1;
  std::int64_t backward_weight = 1;
  std::int64_t message = 0;
};

/// buffered: a message leaves as soon as it is sent. rendezvous: it waits until the receive is
/// posted, as large MPI messages do, and its buffer is in use until it has arrived.
enum class SendMode : std::uint8_t { buffered, rendezvous };

/// One computation on the time axis.
struct Span {
  Action action;
  std::int64_t begin = 0, end = 0;
};

struct Simulation {
  std::int64_t makespan = 0;                // until the last computation of any stage has ended
  std::vector<std::int64_t> busy;           // [stages] time in computations
  std::vector<std::vector<Span>> timeline;  // [stages] computations in order
  /// Idle time of a stage, and its part of the makespan.
  std::int64_t bubble(int stage) const {
    return makespan - busy.at(static_cast<std::size_t>(stage));
  }
  double bubble_fraction(int stage) const;
};

/// Plays the schedule. Throws Error when it can't be played (validate() says more) or a cost is
/// negative.
Simulation simulate(const Schedule& schedule, const PassCosts& costs,
                    SendMode mode = SendMode::buffered);

/// Plays the schedule without keeping anything; empty when every action is done, else who waits for
/// what. The schedule's messages must match (validate() checks that first).
std::string find_deadlock(const Schedule& schedule, SendMode mode);

/// Idle time of every stage by formula, with p stages, v chunks, m micro-batches, costs F, B, W of
/// one chunk, no cost of messages:
///   gpipe         (p - 1 + (v - 1) max(0, p - m)) (F + B + W)
///   one_f_one_b   (p - 1)(F + B)
///   interleaved   (p - 1)(F + B), for m < p: more by (v - 1)((p - m)(F + B) - min(mW, (p - m)B))
///   zb_h1         (p - 1)(F + B) - (min(p, m) - 1) W
///   forward_only  (p - 1 + (v - 1) max(0, p - m)) F
/// They are exact for all numbers, when W <= F (interleaved with m >= p), or W <= F and W <= B
/// (zb_h1, interleaved with m < p); nothing otherwise. (The input gradient is sent before the
/// weight gradient is computed, so W is in no bubble; textbooks without that have F + B + W for F +
/// B.)
std::optional<std::int64_t> bubble_formula(const Schedule& schedule, const PassCosts& costs);
/// The same as text: "(p-1)(F+B) = 3 x 2 = 6". Says why when there is none.
std::string describe_bubble_formula(const Schedule& schedule, const PassCosts& costs);

}  // namespace neox
