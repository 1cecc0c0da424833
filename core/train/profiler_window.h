#pragma once
// The steps that a profiler around the program records (logging.profile_step_start and _stop), and
// what it shows.

#include <cstdint>

#include "core/config/config.h"
#include "core/tensor/device_tools.h"

namespace neox {

class ProfilerWindow {
 public:
  /// Turns on ranges (logging.nvtx_ranges). Says so where `device` has no profiler.
  ProfilerWindow(const LoggingConfig& config, Device device);
  /// Stops what still runs, when training ends inside the window.
  ~ProfilerWindow();
  ProfilerWindow(const ProfilerWindow&) = delete;
  ProfilerWindow& operator=(const ProfilerWindow&) = delete;

  /// Steps count from 1.
  void begin_step(std::int64_t step);
  /// After the step's work on `stream` was queued, for which the last step of the window waits.
  void end_step(std::int64_t step, Stream& stream);

 private:
  DeviceTools& tools_;
  std::int64_t first_, last_;  // 0: none
  bool running_ = false;
};

}  // namespace neox
