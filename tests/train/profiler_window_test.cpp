#include "core/train/profiler_window.h"

#include <gtest/gtest.h>

namespace neox {
namespace {

std::string& told() {
  static std::string calls;
  return calls;
}

class FakeStream final : public Stream {
 public:
  Device device() const override { return {DeviceKind::cuda, 0}; }
  void synchronize() override { told() += "wait "; }
};

class FakeTools final : public DeviceTools {
 public:
  bool start_profiler() override {
    told() += "start ";
    return true;
  }
  bool stop_profiler() override {
    told() += "stop ";
    return true;
  }
  bool show_ranges() override {
    told() += "ranges ";
    return true;
  }
};

/// What the device is told in steps [first, last] of a run.
std::string calls(std::int64_t start, std::int64_t stop, std::int64_t first, std::int64_t last) {
  register_device_tools(DeviceKind::cuda, std::make_unique<FakeTools>());
  told().clear();
  LoggingConfig config;
  config.profile_step_start = start;
  config.profile_step_stop = stop;
  {
    FakeStream stream;
    ProfilerWindow window(config, {DeviceKind::cuda, 0});
    for (std::int64_t step = first; step <= last; ++step) {
      window.begin_step(step);
      told() += std::to_string(step) + " ";
      window.end_step(step, stream);
    }
  }
  register_device_tools(DeviceKind::cuda, nullptr);
  return told();
}

TEST(ProfilerWindow, RecordsTheStepsThatAreNamed) {
  EXPECT_EQ(calls(2, 3, 1, 4), "1 start 2 3 wait stop 4 ");
  EXPECT_EQ(calls(2, 0, 1, 3), "1 start 2 wait stop 3 ");
  EXPECT_EQ(calls(0, 0, 1, 2), "1 2 ");
}

TEST(ProfilerWindow, StartsAndEndsInsideTheWindow) {
  EXPECT_EQ(calls(2, 4, 3, 5), "start 3 4 wait stop 5 ");  // continued from a checkpoint
  EXPECT_EQ(calls(2, 4, 1, 3), "1 start 2 3 stop ");       // the run ends before
  EXPECT_EQ(calls(2, 4, 5, 6), "5 6 ");
}

TEST(ProfilerWindow, ShowsRangesOnlyWhenAsked) {
  register_device_tools(DeviceKind::cuda, std::make_unique<FakeTools>());
  told().clear();
  LoggingConfig config;
  { const ProfilerWindow window(config, {DeviceKind::cuda, 0}); }
  EXPECT_EQ(told(), "");
  config.nvtx_ranges = true;
  { const ProfilerWindow window(config, {DeviceKind::cuda, 0}); }
  EXPECT_EQ(told(), "ranges ");
  register_device_tools(DeviceKind::cuda, nullptr);
}

}  // namespace
}  // namespace neox
