// A rank that is held up in every step is named; the time that others wait for it is not theirs.

#include <chrono>
#include <thread>

#include <gtest/gtest.h>

#include "comm/mpi.h"
#include "core/train/straggler_report.h"
#include "tests/train/layout_run.h"

namespace neox::testing {
namespace {

using std::chrono::milliseconds;

// Rank 0's findings after `steps` steps in which `victim` sleeps.
StragglerFindings measure(Communicator& world, const Layout& layout, int victim, milliseconds sleep,
                          bool while_reading) {
  constexpr int kSteps = 3;
  LayoutRun run(world, layout);
  run.train(1);  // first touch
  StragglerReport report(run.engine(), world, kSteps, 1.0);
  std::optional<StragglerFindings> found;
  for (int step = 1; step <= kSteps; ++step) {
    EXPECT_FALSE(found.has_value()) << "before the interval is over";
    report.begin_step();
    if (world.rank() == victim) std::this_thread::sleep_for(sleep);
    run.train(1);
    const double data = world.rank() == victim && while_reading ? 1e-3 * double(sleep.count()) : 0;
    found = report.end_step(step, data);
  }
  EXPECT_EQ(found.has_value(), world.rank() == 0);
  return found.value_or(StragglerFindings());
}

TEST(StragglerReport, NamesTheRankThatSleeps) {
  const auto world = make_world_communicator();
  constexpr milliseconds kSleep{800};  // far more than a step takes
  Layout pipe;
  pipe.tensor = 2;
  pipe.pipe = 2;
  Layout data;
  data.data = 4;
  data.zero = 1;
  for (const Layout& layout : {data, pipe}) {
    for (const int victim : {0, 2}) {
      SCOPED_TRACE(layout.describe() + ", victim " + std::to_string(victim));
      const StragglerFindings found = measure(*world, layout, victim, kSleep, victim == 0);
      if (world->rank() != 0) continue;
      // A busy machine may slow down another one too, but not as much.
      EXPECT_FALSE(found.slow.empty());
      if (found.slow.empty()) continue;
      EXPECT_EQ(found.slow[0].rank, victim);
      EXPECT_EQ(found.slowest_rank, victim);
      EXPECT_GT(found.slow[0].times.median, 0.8);
      EXPECT_LT(found.slow[0].peers_median, 0.4);  // they waited as long, and that is not theirs
      EXPECT_DOUBLE_EQ(found.slow[0].times.data, victim == 0 ? 0.8 : 0.0);
    }
  }
}

}  // namespace
}  // namespace neox::testing
