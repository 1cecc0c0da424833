#pragma once
// Where the time of a step goes on every rank (logging.profile).

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "core/train/engine.h"

namespace neox {

/// Seconds of one rank's step. What is not waiting is computing: kernels, copies, bookkeeping.
struct StepTimes {
  double total = 0.0;
  double bubble = 0.0;  ///< for messages of neighbouring pipeline stages
  double data = 0.0;    ///< for the next batch
  /// For operations of other ranks that computation does not hide, by group; waiting for a slower
  /// rank counts where it shows. Messages between stages only as far as the sender waits.
  std::vector<double> exposed{};

  double compute() const;
};

/// A line per rank, in milliseconds, of a column for each of `groups`; beyond kRanksInFull ranks
/// the least, the mean and the most of every column, with the rank.
std::string step_times_table(const std::vector<std::string>& groups,
                             const std::vector<StepTimes>& ranks);

/// The same of the phases that the device itself measured; those that no rank has are left out.
std::string phase_times_table(const std::vector<PhaseTimes>& ranks);

/// Measures by the groups' own clocks (Communicator::waited_ns), and phases of the compute stream
/// by the device's.
class StepProfiler {
 public:
  static constexpr std::size_t kRanksInFull = 32;

  /// Both must outlive this.
  StepProfiler(Engine& engine, Communicator& world) : engine_(engine), world_(world) {
    engine.measure_phases();
  }
  void begin_step();
  /// Logs the tables of the step that began last, for whose end on the device it waits. Collective.
  void end_step(std::int64_t step, double data_seconds);
  /// Logs what rank 0 communicated per profiled step.
  void report();

 private:
  struct Snapshot {
    std::chrono::steady_clock::time_point time{};
    std::int64_t bubble_ns = 0;
    std::vector<std::int64_t> waited_ns{};
    std::vector<GroupTraffic> traffic{};
  };
  Snapshot snapshot() const;
  std::string measure(double data_seconds);
  std::vector<PhaseTimes> gather_phases();

  Engine& engine_;
  Communicator& world_;
  Snapshot begin_;
  std::vector<GroupTraffic> traffic_;  // of all profiled steps
  std::int64_t steps_ = 0;
};

}  // namespace neox
