#include "core/parallel/schedule.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/base/error.h"

namespace neox {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using enum ScheduleKind;

// "F0 F1 BW0 ...", computations only; chunks as a, b, c.
std::string computations(const Schedule& s, int stage) {
  std::string out;
  for (const Action& a : s.actions[static_cast<std::size_t>(stage)]) {
    if (is_message(a.kind)) continue;
    out += out.empty() ? "" : " ";
    out += a.kind == ActionKind::forward          ? "F"
           : a.kind == ActionKind::backward       ? "BW"
           : a.kind == ActionKind::backward_input ? "B"
                                                  : "W";
    out += std::to_string(a.micro_batch);
    if (s.chunks > 1) out += static_cast<char>('a' + a.chunk);
  }
  return out;
}

// Everything, messages as "sf0>1" and "rb0<1".
std::string all_actions(const Schedule& s, int stage) {
  constexpr const char* kShort[] = {"F", "BW", "B", "W", "sf", "rf", "sb", "rb"};
  std::string out;
  for (const Action& a : s.actions[static_cast<std::size_t>(stage)]) {
    out += out.empty() ? "" : " ";
    out += kShort[static_cast<std::size_t>(a.kind)] + std::to_string(a.micro_batch);
    if (is_message(a.kind)) out += ":" + std::to_string(a.peer);
  }
  return out;
}

TEST(Schedule, OneForwardOneBackward) {
  const Schedule s = make_schedule(one_f_one_b, 3, 1, 4);
  EXPECT_EQ(computations(s, 0), "F0 F1 F2 BW0 F3 BW1 BW2 BW3");
  EXPECT_EQ(computations(s, 1), "F0 F1 B0 W0 F2 B1 W1 F3 B2 W2 B3 W3");
  EXPECT_EQ(computations(s, 2), "F0 B0 W0 F1 B1 W1 F2 B2 W2 F3 B3 W3");
}

TEST(Schedule, InputGradientIsSentBeforeTheWeightGradient) {
  const Schedule s = make_schedule(one_f_one_b, 2, 1, 2);
  EXPECT_EQ(all_actions(s, 0), "rb0:1 F0 sf0:1 F1 sf1:1 rb1:1 BW0 BW1");
  EXPECT_EQ(all_actions(s, 1), "rf0:0 rf1:0 F0 B0 sb0:0 W0 F1 B1 sb1:0 W1");
  for (const ScheduleKind kind : {one_f_one_b, interleaved, zb_h1}) {
    const Schedule t = make_schedule(kind, 4, kind == interleaved ? 2 : 1, 8);
    for (const StageActions& list : t.actions) {
      for (std::size_t i = 0; i < list.size(); ++i) {
        if (list[i].kind == ActionKind::send_backward) {
          EXPECT_EQ(list[i - 1].kind, ActionKind::backward_input);
        }
      }
    }
  }
}

TEST(Schedule, GPipe) {
  const Schedule s = make_schedule(gpipe, 2, 1, 3);
  EXPECT_EQ(computations(s, 0), "F0 F1 F2 BW0 BW1 BW2");
  EXPECT_EQ(computations(s, 1), "F0 F1 F2 BW0 BW1 BW2");
}

TEST(Schedule, Interleaved) {
  const Schedule s = make_schedule(interleaved, 2, 2, 4);
  EXPECT_EQ(computations(s, 0),
            "F0a F1a F0b F1b F2a B0b W0b F3a B1b W1b F2b BW0a F3b BW1a B2b W2b B3b W3b BW2a BW3a");
  EXPECT_EQ(computations(s, 1),
            "F0a F1a F0b B0b W0b F1b B1b W1b F2a B0a W0a F3a B1a W1a F2b B2b W2b F3b B3b W3b B2a "
            "W2a B3a W3a");
  // Chunks wrap around.
  EXPECT_EQ(next(s, 1, 0), (ChunkOfStage{0, 1}));
  EXPECT_EQ(previous(s, 0, 1), (ChunkOfStage{1, 0}));
  EXPECT_TRUE(is_first(s, 0, 0) && is_last(s, 1, 1) && !is_last(s, 1, 0) && !is_first(s, 0, 1));
}

TEST(Schedule, RemainderIsSpreadOverTheGroups) {
  // 7 micro-batches, 3 stages: groups of 4 and 3.
  EXPECT_EQ(computations(make_schedule(forward_only, 3, 2, 7), 0),
            "F0a F1a F2a F3a F0b F1b F2b F3b F4a F5a F6a F4b F5b F6b");
  EXPECT_EQ(computations(make_schedule(forward_only, 3, 2, 2), 0), "F0a F1a F0b F1b");
}

TEST(Schedule, ZeroBubble) {
  const Schedule s = make_schedule(zb_h1, 3, 1, 4);
  EXPECT_EQ(computations(s, 0), "F0 F1 F2 BW0 F3 BW1 BW2 BW3");
  EXPECT_EQ(computations(s, 1), "F0 F1 B0 F2 B1 W0 F3 B2 W1 B3 W2 W3");
  EXPECT_EQ(computations(s, 2), "F0 B0 F1 B1 F2 B2 W0 F3 B3 W1 W2 W3");
}

TEST(Schedule, FewerMicroBatchesThanStages) {
  EXPECT_EQ(computations(make_schedule(one_f_one_b, 4, 1, 2), 0), "F0 F1 BW0 BW1");
  EXPECT_EQ(computations(make_schedule(zb_h1, 4, 1, 1), 3), "F0 B0 W0");
  EXPECT_EQ(computations(make_schedule(interleaved, 3, 2, 1), 0), "F0a F0b B0b W0b BW0a");
}

TEST(Schedule, OneStageHasNoMessages) {
  EXPECT_EQ(all_actions(make_schedule(one_f_one_b, 1, 1, 2), 0), "F0 BW0 F1 BW1");
  EXPECT_EQ(computations(make_schedule(interleaved, 1, 2, 2), 0),
            "F0a F0b B0b W0b F1a BW0a F1b "
            "B1b W1b BW1a");
}

TEST(Schedule, PeakActivations) {
  const auto peaks = [](ScheduleKind kind, int p, int v, int m) {
    const Schedule s = make_schedule(kind, p, v, m);
    std::vector<int> out;
    for (int stage = 0; stage < p; ++stage) out.push_back(stage_buffers(s, stage).activations);
    return out;
  };
  EXPECT_THAT(peaks(gpipe, 4, 1, 8), ElementsAre(8, 8, 8, 8));
  EXPECT_THAT(peaks(one_f_one_b, 4, 1, 8), ElementsAre(4, 3, 2, 1));
  EXPECT_THAT(peaks(one_f_one_b, 4, 1, 2), ElementsAre(2, 2, 2, 1));
  EXPECT_THAT(peaks(zb_h1, 4, 1, 8), ElementsAre(4, 4, 4, 4));
  EXPECT_THAT(peaks(interleaved, 4, 2, 8), ElementsAre(11, 9, 7, 5));  // pv + p - 1 on stage 0
  EXPECT_THAT(peaks(forward_only, 4, 2, 8), ElementsAre(1, 1, 1, 1));
}

TEST(Schedule, Buffers) {
  const Schedule s = make_schedule(zb_h1, 4, 1, 8);
  const StageBuffers first = stage_buffers(s, 0), last = stage_buffers(s, 3);
  EXPECT_EQ(first.receive_forward, 0);
  EXPECT_EQ(first.receive_backward, 2);
  EXPECT_EQ(first.send_forward, kSendsInFlight + 1);
  EXPECT_EQ(first.send_backward, 0);
  EXPECT_EQ(first.output_gradients, 0);
  EXPECT_EQ(last.receive_forward, 2);
  EXPECT_EQ(last.output_gradients, 4);  // the lag of 3, and the one just computed
  EXPECT_EQ(stage_buffers(make_schedule(one_f_one_b, 4, 1, 8), 3).output_gradients, 1);
}

template <class F>
std::string error_of(F&& f) {
  try {
    f();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(Schedule, NamesAndErrors) {
  for (const ScheduleKind kind : {gpipe, one_f_one_b, interleaved, zb_h1, forward_only}) {
    EXPECT_EQ(schedule_kind(name_of(kind)), kind);
  }
  EXPECT_THAT(error_of([] { schedule_kind("dualpipe"); }),
              HasSubstr("'dualpipe' is not a pipeline schedule; there are gpipe, 1f1b"));
  EXPECT_THAT(error_of([] { make_schedule(zb_h1, 4, 2, 8); }),
              HasSubstr("schedule zb-h1 has one chunk per stage, 2 are asked for"));
  EXPECT_THAT(error_of([] { make_schedule(gpipe, 0, 1, 8); }), HasSubstr("0 stages"));
  EXPECT_THAT(error_of([] { make_schedule(gpipe, 2, 1, -3); }), HasSubstr("-3 micro-batches"));
  EXPECT_THAT(error_of([] { make_schedule(gpipe, 1 << 30, 1 << 30, 1 << 30); }),
              HasSubstr("too long"));
  EXPECT_EQ(describe({ActionKind::receive_forward, 3, 0, 1}),
            "receive_forward of micro-batch 3, chunk 0, from stage 1");
}

}  // namespace
}  // namespace neox
