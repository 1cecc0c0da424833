#include "core/parallel/phase_clock.h"

#include <gtest/gtest.h>

#include "core/base/error.h"

namespace neox {
namespace {

/// What a scripted device did. Its clock advances when the test says so.
struct Device {
  double now = 0;
  int made = 0, waits = 0;
};
Device& fake() {
  static Device device;
  return device;
}

class FakeMark final : public TimeMark {
 public:
  void record(Stream&) override { time_ = fake().now; }
  void synchronize() override { ++fake().waits; }
  double seconds_since(const TimeMark& earlier) const override {
    return time_ - dynamic_cast<const FakeMark&>(earlier).time_;
  }

 private:
  double time_ = -1;
};

class FakeStream final : public Stream {
 public:
  neox::Device device() const override { return {DeviceKind::cuda, 0}; }
  void synchronize() override { fail("the stream was waited for"); }
};

class FakeTools final : public DeviceTools {
 public:
  std::unique_ptr<TimeMark> make_time_mark(int) override {
    ++fake().made;
    return std::make_unique<FakeMark>();
  }
};

double of(const PhaseTimes& times, Phase phase) {
  return times.at(static_cast<std::size_t>(phase));
}

TEST(PhaseClock, SumsEachPhaseAndWaitsForTheEndAlone) {
  register_device_tools(DeviceKind::cuda, std::make_unique<FakeTools>());
  fake() = {};
  FakeStream stream;
  PhaseClock clock(stream);
  EXPECT_EQ(of(clock.read(), Phase::forward), 0.0);  // no step yet
  const auto step = [&](double forward) {
    clock.begin_step();
    for (int micro_batch = 0; micro_batch < 3; ++micro_batch) {
      clock.enter(Phase::forward);
      fake().now += forward;
      clock.enter(Phase::forward);  // goes on
      fake().now += forward;
      clock.enter(Phase::backward);
      fake().now += 3 * forward;
    }
    clock.enter(Phase::optimizer);
    fake().now += 0.5;
    clock.end_step();
    fake().now += 100;  // between steps
  };
  step(1);
  const PhaseTimes first = clock.read();
  EXPECT_EQ(of(first, Phase::forward), 6);
  EXPECT_EQ(of(first, Phase::backward), 9);
  EXPECT_EQ(of(first, Phase::optimizer), 0.5);
  EXPECT_EQ(of(first, Phase::messages), 0);
  EXPECT_EQ(fake().waits, 1);
  EXPECT_EQ(fake().made, 8);  // 3 x 2, the optimizer, the end
  step(2);
  EXPECT_EQ(of(clock.read(), Phase::forward), 12);
  EXPECT_EQ(fake().made, 8);  // none are made anew
  register_device_tools(DeviceKind::cuda, nullptr);
}

TEST(PhaseClock, EveryPhaseHasAName) {
  for (std::size_t p = 0; p < kPhases; ++p) EXPECT_STRNE(name_of(static_cast<Phase>(p)), "");
}

}  // namespace
}  // namespace neox
