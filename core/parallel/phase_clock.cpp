#include "core/parallel/phase_clock.h"

namespace neox {

const char* name_of(Phase phase) {
  static constexpr std::array<const char*, kPhases> kNames = {
      "inputs", "forward", "backward", "messages", "reduction", "optimizer", "weights"};
  return kNames.at(static_cast<std::size_t>(phase));
}

void PhaseClock::record(Phase phase) {
  if (used_ == marks_.size())
    marks_.push_back(
        {phase, device_tools(stream_.device().kind).make_time_mark(stream_.device().index)});
  Mark& mark = marks_[used_++];
  mark.phase = phase;
  mark.time->record(stream_);
}

void PhaseClock::enter(Phase phase) {
  if (used_ == 0 || marks_[used_ - 1].phase != phase) record(phase);
}

void PhaseClock::end_step() {
  record(Phase::count);
}

PhaseTimes PhaseClock::read() {
  PhaseTimes times{};
  if (used_ == 0) return times;
  marks_[used_ - 1].time->synchronize();
  for (std::size_t i = 0; i + 1 < used_; ++i) {
    if (marks_[i].phase == Phase::count) continue;
    times.at(static_cast<std::size_t>(marks_[i].phase)) +=
        marks_[i + 1].time->seconds_since(*marks_[i].time);
  }
  return times;
}

}  // namespace neox
