#include "core/parallel/schedule_simulator.h"

#include <map>

#include <fmt/core.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/base/error.h"

namespace neox {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using enum ScheduleKind;

constexpr SendMode kModes[] = {SendMode::buffered, SendMode::rendezvous};

// Costs of one chunk; W as large as F and B, and smaller.
constexpr PassCosts kCosts[] = {{1, 1, 1}, {5, 7, 3}};

struct Comparison {
  int schedules = 0, stages = 0, few = 0;  // few: with fewer micro-batches than stages
};

void compare(const Schedule& s, const PassCosts& costs, Comparison& count) {
  const auto expected = bubble_formula(s, costs);
  ASSERT_TRUE(expected.has_value());
  for (const SendMode mode : kModes) {
    if (mode == SendMode::rendezvous && costs.backward_weight > costs.backward_input) continue;
    const Simulation got = simulate(s, costs, mode);
    for (int stage = 0; stage < s.stages; ++stage) {
      EXPECT_EQ(got.bubble(stage), *expected)
          << name_of(s.kind) << ", stage " << stage << " of " << s.stages << ", " << s.chunks
          << " chunks, " << s.micro_batches << " micro-batches";
      ++count.stages;
    }
    ++count.schedules;
    count.few += s.micro_batches < s.stages ? 1 : 0;
  }
}

TEST(ScheduleSimulator, BubblesEqualTheFormulasExactly) {
  std::map<std::string_view, Comparison> counts;
  for (const ScheduleKind kind : {gpipe, one_f_one_b, interleaved, zb_h1, forward_only}) {
    const int most_chunks = kind == one_f_one_b || kind == zb_h1 ? 1 : 4;
    for (int p = 1; p <= 16; ++p) {
      for (int v = 1; v <= most_chunks; ++v) {
        for (int m = 1; m <= 64; ++m) {
          const Schedule s = make_schedule(kind, p, v, m);
          for (const PassCosts& costs : kCosts) compare(s, costs, counts[name_of(kind)]);
        }
      }
    }
  }
  for (const auto& [kind, count] : counts) {
    fmt::print("{}: {} simulations ({} with fewer micro-batches than stages), {} stages\n", kind,
               count.schedules, count.few, count.stages);
  }
  EXPECT_EQ(counts["1f1b"].schedules, 16 * 64 * 4);
  EXPECT_EQ(counts["interleaved"].schedules, 16 * 4 * 64 * 4);
}

// All ratios of costs, within what bubble_formula() promises.
TEST(ScheduleSimulator, BubblesEqualTheFormulasForAllCosts) {
  Comparison count;
  int none = 0;
  for (const ScheduleKind kind : {gpipe, one_f_one_b, interleaved, zb_h1, forward_only}) {
    for (const auto& [p, v, m] : {std::tuple{2, 2, 5},
                                  {3, 3, 2},
                                  {4, 2, 8},
                                  {5, 2, 13},
                                  {7, 3, 7},
                                  {6, 2, 3},
                                  {8, 2, 16},
                                  {1, 4, 3}}) {
      const int chunks = kind == one_f_one_b || kind == zb_h1 ? 1 : v;
      const Schedule s = make_schedule(kind, p, chunks, m);
      for (int f = 0; f <= 4; ++f) {
        for (int b = 0; b <= 4; ++b) {
          for (int w = 0; w <= 4; ++w) {
            const PassCosts costs{f, b, w};
            if (bubble_formula(s, costs)) {
              compare(s, costs, count);
            } else {
              ++none;
            }
          }
        }
      }
    }
  }
  fmt::print("{} simulations, {} combinations without a formula\n", count.schedules, none);
  EXPECT_GT(count.schedules, 6000);
}

// The formulas themselves, against published figures (F = B = W).
TEST(ScheduleSimulator, FormulasArePublishedOnes) {
  const auto bubble = [](ScheduleKind kind, int p, int v, int m, PassCosts costs) {
    return bubble_formula(make_schedule(kind, p, v, m), costs).value();
  };
  EXPECT_EQ(bubble(gpipe, 4, 1, 8, {1, 1, 1}), 3 * 3);
  EXPECT_EQ(bubble(one_f_one_b, 4, 1, 8, {1, 1, 1}), 3 * 2);  // W is not waited for
  // Chunks of a third of the time: (p-1)(tF+tB)/v.
  EXPECT_EQ(bubble(interleaved, 4, 3, 8, {1, 1, 1}) * 3, bubble(one_f_one_b, 4, 1, 8, {3, 3, 3}));
  // A third of GPipe's and of the textbook's 1F1B.
  EXPECT_EQ(bubble(zb_h1, 4, 1, 8, {1, 1, 1}) * 3, bubble(gpipe, 4, 1, 8, {1, 1, 1}));
  EXPECT_EQ(bubble_formula(make_schedule(zb_h1, 4, 1, 8), {1, 1, 2}), std::nullopt);
  EXPECT_EQ(bubble_formula(make_schedule(zb_h1, 4, 1, 8), {1, 1, 1, 1}), std::nullopt);
}

TEST(ScheduleSimulator, TimelineOfASmallPipeline) {
  const Simulation run = simulate(make_schedule(one_f_one_b, 2, 1, 2), {2, 3, 1});
  std::vector<std::string> text;
  for (const auto& stage : run.timeline) {
    text.emplace_back();
    for (const Span& span : stage) {
      text.back() += fmt::format("{}{} {}-{}, ", name_of(span.action.kind), span.action.micro_batch,
                                 span.begin, span.end);
    }
  }
  EXPECT_THAT(text,
              ElementsAre("forward0 0-2, forward1 2-4, backward0 7-11, backward1 13-17, ",
                          "forward0 2-4, backward_input0 4-7, backward_weight0 7-8, forward1 8-10, "
                          "backward_input1 10-13, backward_weight1 13-14, "));
  EXPECT_EQ(run.makespan, 17);
  EXPECT_EQ(run.bubble(0), 5);
  EXPECT_DOUBLE_EQ(run.bubble_fraction(1), 5.0 / 17.0);
}

TEST(ScheduleSimulator, MessagesTakeTime) {
  const Schedule s = make_schedule(forward_only, 3, 1, 1);
  EXPECT_EQ(simulate(s, {2, 0, 0, 5}).makespan, 3 * 2 + 2 * 5);
  for (const ScheduleKind kind : {gpipe, one_f_one_b, interleaved, zb_h1}) {
    const Schedule t = make_schedule(kind, 4, 1, 8);
    EXPECT_GT(simulate(t, {2, 2, 2, 1}).makespan, simulate(t, {2, 2, 2, 0}).makespan);
    EXPECT_GE(simulate(t, {2, 2, 2, 1}, SendMode::rendezvous).makespan,
              simulate(t, {2, 2, 2, 1}).makespan);
  }
}

TEST(ScheduleSimulator, RefusesWhatCannotBePlayed) {
  Schedule s = make_schedule(one_f_one_b, 2, 1, 2);
  EXPECT_THROW(simulate(s, {-1, 1, 1}), Error);
  s.actions[0].clear();
  try {
    simulate(s, {});
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("stage 1 waits for a message, at action"));
  }
}

}  // namespace
}  // namespace neox
