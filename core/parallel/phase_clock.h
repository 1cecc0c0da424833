#pragma once
// Where a step's time goes on the device, phase by phase, without ever waiting for it.

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "core/tensor/device_tools.h"

namespace neox {

/// What a rank's compute stream does in a step.
enum class Phase : std::uint8_t {
  inputs,     ///< batches to the device
  forward,    ///< and communication inside layers
  backward,   ///< loss and head, recomputation, communication inside layers
  messages,   ///< waiting for other pipeline stages, sending to them
  reduction,  ///< gradients: what is not hidden behind backward
  optimizer,  ///< gradient norm, AdamW
  weights,    ///< sharded weights, on their way back to all ranks
  count
};
inline constexpr auto kPhases = static_cast<std::size_t>(Phase::count);
const char* name_of(Phase phase);

/// Seconds of each phase of one step.
using PhaseTimes = std::array<double, kPhases>;

/// Records a TimeMark where a phase of the compute stream begins, so time that the device stands
/// still belongs to the phase before. Allocates in the first steps only.
class PhaseClock {
 public:
  /// `stream` must outlive this.
  explicit PhaseClock(Stream& stream) : stream_(stream) {}

  /// Forgets the marks of the step before.
  void begin_step() { used_ = 0; }
  /// From here on the stream's work belongs to `phase`.
  void enter(Phase phase);
  void end_step();
  /// Of the step that ended last; waits until the device has done it.
  PhaseTimes read();

 private:
  struct Mark {
    Phase phase;  // that begins here
    std::unique_ptr<TimeMark> time;
  };
  void record(Phase phase);

  Stream& stream_;
  std::vector<Mark> marks_;  // the first used_ are the step's; Phase::count: its end
  std::size_t used_ = 0;
};

}  // namespace neox
