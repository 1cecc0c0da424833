#include "core/train/profiler_window.h"

#include <exception>

#include "core/base/log.h"

namespace neox {

ProfilerWindow::ProfilerWindow(const LoggingConfig& config, Device device)
    : tools_(device_tools(device.kind)),
      first_(config.profile_step_start),
      last_(config.profile_step_stop > 0 ? config.profile_step_stop : first_) {
  if (config.nvtx_ranges && !tools_.show_ranges()) {
    log_info("logging.nvtx_ranges: {} has no NVTX; the ranges go nowhere", name_of(device));
  }
  if (first_ > 0 && device.kind != DeviceKind::cuda) {
    log_info("logging.profile_step_start: {} has no CUDA profiler; nothing is recorded",
             name_of(device));
  }
}

ProfilerWindow::~ProfilerWindow() {
  if (!running_) return;
  try {
    tools_.stop_profiler();
  } catch (const std::exception&) {  // the device failed: whoever used it last has said so
  }
}

void ProfilerWindow::begin_step(std::int64_t step) {
  // A run may be continued inside the window.
  if (first_ == 0 || running_ || step < first_ || step > last_) return;
  running_ = tools_.start_profiler();
  if (running_) log_info("the CUDA profiler records steps {} to {}", step, last_);
}

void ProfilerWindow::end_step(std::int64_t step, Stream& stream) {
  if (!running_ || step < last_) return;
  stream.synchronize();
  tools_.stop_profiler();
  running_ = false;
}

}  // namespace neox
