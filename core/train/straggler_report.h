#pragma once
// Which rank holds up the others while a run trains (logging.straggler_interval).

#include <chrono>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/train/engine.h"

namespace neox {

/// Seconds of one rank's step. What is not waiting for other ranks is its own: kernels, copies,
/// bookkeeping, and waiting for data.
struct OwnTime {
  double own = 0.0;
  double data = 0.0;  ///< of it, waiting for the next batch
};

/// One rank's steps of an interval.
struct OwnTimes {
  double median = 0.0;  ///< of a step's own time, seconds
  double lower = 0.0;   ///< three of four steps took at least this
  double data = 0.0;    ///< median of waiting for data
};

/// Any number of steps; zeros without any.
OwnTimes summarise(std::span<const OwnTime> steps);

/// A rank that is slower than those that do the same work.
struct Straggler {
  int rank = 0;
  OwnTimes times;
  int peers = 0;              ///< how many others there are in its pipeline stage
  double peers_median = 0.0;  ///< median of their medians
};

struct StragglerFindings {
  std::vector<Straggler> slow;  ///< the slowest, relative to its peers, first
  /// The largest ratio of a rank's median to its peers', whether that is slow or not; 1 without
  /// peers.
  double slowest_ratio = 1.0;
  int slowest_rank = 0;
};

/// Compares each rank with the others of its pipeline stage. A rank is slow when three of four of
/// its steps took longer than the median of the others' medians by the part `threshold`, and by
/// kLeastExcess at least: passing disturbances of a shared machine are not.
/// `ranks`: all ranks of `layout`.
StragglerFindings find_stragglers(std::span<const OwnTimes> ranks, const ParallelLayout& layout,
                                  double threshold);
constexpr double kLeastExcess = 1e-3;  // seconds

/// One line; what to do included. `hosts`: of all ranks; `steps`: that were measured.
std::string describe(const Straggler& straggler, const ParallelLayout& layout,
                     std::span<const std::string> hosts, std::int64_t steps);

/// Measures every step by the groups' clocks (Communicator::waited_ns), compares ranks once per
/// interval. For engines that compute on the CPU: the waiting of a device is not seen by the host.
class StragglerReport {
 public:
  /// Both must outlive this. `interval` > 0.
  StragglerReport(const Engine& engine, Communicator& world, std::int64_t interval,
                  double threshold);
  void begin_step();
  /// The step that began last is done, `step` steps in all. When that is a multiple of the
  /// interval, the ranks exchange what they measured, and rank 0 warns of stragglers and returns
  /// what it found; nothing otherwise. Collective.
  std::optional<StragglerFindings> end_step(std::int64_t step, double data_seconds);

 private:
  double waited_seconds() const;

  const Engine& engine_;
  Communicator& world_;
  std::vector<const Communicator*> groups_;
  std::int64_t interval_;
  double threshold_;
  std::chrono::steady_clock::time_point begin_{};
  double waited_before_ = 0.0;
  std::vector<OwnTime> steps_;  // since the last exchange
};

}  // namespace neox
