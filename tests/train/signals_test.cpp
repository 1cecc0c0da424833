#include "core/train/signals.h"

#include <csignal>

#include <gtest/gtest.h>

#include "core/base/error.h"

namespace neox {
namespace {

int seen = 0;
void note(int signal) {
  seen = signal;
}

TEST(StopSignals, OnlySetAFlag) {
  const StopSignals signals;
  EXPECT_EQ(signals.received(), 0);
  ASSERT_EQ(std::raise(SIGUSR1), 0);
  EXPECT_EQ(signals.received(), SIGUSR1);
  ASSERT_EQ(std::raise(SIGTERM), 0);
  ASSERT_EQ(std::raise(SIGTERM), 0);
  EXPECT_EQ(signals.received(), SIGTERM);
  EXPECT_STREQ(StopSignals::name_of(signals.received()), "SIGTERM");
}

TEST(StopSignals, GivesTheSignalsBack) {
  ASSERT_NE(std::signal(SIGUSR1, note), SIG_ERR);
  {
    const StopSignals signals;
    EXPECT_EQ(signals.received(), 0) << "an earlier signal is forgotten";
    std::raise(SIGUSR1);
    EXPECT_EQ(seen, 0);
    EXPECT_THROW(StopSignals(), Error);
    EXPECT_EQ(signals.received(), SIGUSR1);
  }
  std::raise(SIGUSR1);
  EXPECT_EQ(seen, SIGUSR1);
  std::signal(SIGUSR1, SIG_DFL);
}

}  // namespace
}  // namespace neox
