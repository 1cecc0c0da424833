#include "core/parallel/schedule_check.h"

#include <map>
#include <random>
#include <set>

#include <fmt/core.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "toy_pipeline.h"

namespace neox {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using enum ScheduleKind;

constexpr ScheduleKind kKinds[] = {gpipe, one_f_one_b, interleaved, zb_h1, forward_only};

int most_chunks(ScheduleKind kind) {
  return kind == one_f_one_b || kind == zb_h1 ? 1 : 4;
}

template <class F>
void for_schedules(int stages, int micro_batches, F&& f) {
  for (const ScheduleKind kind : kKinds) {
    for (int p = 1; p <= stages; ++p) {
      for (int v = 1; v <= most_chunks(kind); ++v) {
        for (int m = 1; m <= micro_batches; ++m) f(make_schedule(kind, p, v, m));
      }
    }
  }
}

std::string name(const Schedule& s) {
  return fmt::format("{}, {} stages, {} chunks, {} micro-batches", name_of(s.kind), s.stages,
                     s.chunks, s.micro_batches);
}

TEST(ScheduleCheck, EveryScheduleIsValid) {
  std::map<std::string_view, int> checked;
  for_schedules(16, 64, [&](const Schedule& s) {
    const auto problems = validate(s);
    EXPECT_THAT(problems, IsEmpty()) << name(s);
    ++checked[name_of(s.kind)];
  });
  for (const auto& [kind, count] : checked) fmt::print("{}: {} schedules\n", kind, count);
  EXPECT_EQ(checked["1f1b"] + checked["zb-h1"], 2 * 16 * 64);
  EXPECT_EQ(checked["gpipe"] + checked["interleaved"] + checked["forward-only"], 3 * 16 * 4 * 64);
}

// The toy knows nothing of the validator: every schedule computes what the model computes, with
// gradients added in the same order.
TEST(ScheduleCheck, EveryScheduleComputesTheSameGradients) {
  int checked = 0;
  for_schedules(6, 14, [&](const Schedule& s) {
    const ToyResult expected =
        run_toy_model(virtual_stages(s), s.micro_batches, s.kind != forward_only);
    for (const bool waiting : {false, true}) {
      const ToyResult got = run_toy_pipeline(s, waiting);
      EXPECT_EQ(got.problem, "") << name(s);
      EXPECT_TRUE(got == expected) << name(s);
      ++checked;
    }
  });
  fmt::print("{} runs of the toy model\n", checked);
}

bool works(const Schedule& s) {
  const ToyResult expected =
      run_toy_model(virtual_stages(s), s.micro_batches, s.kind != forward_only);
  return run_toy_pipeline(s, false) == expected && run_toy_pipeline(s, true) == expected;
}

class Mutator {
 public:
  explicit Mutator(unsigned seed) : random_(seed) {}
  int below(std::size_t n) { return static_cast<int>(random_() % n); }

  // Changes one random thing; returns its name.
  std::string mutate(Schedule& s) {
    StageActions& list = s.actions[static_cast<std::size_t>(below(s.actions.size()))];
    const int at = below(list.size()), to = below(list.size());
    Action& action = list[static_cast<std::size_t>(at)];
    switch (below(7)) {
      case 0:
        list.erase(list.begin() + at);
        return "remove";
      case 1: {
        const Action copy = action;
        list.insert(list.begin() + to, copy);
        return "duplicate";
      }
      case 2:
        std::swap(action, list[static_cast<std::size_t>(to)]);
        return "swap";
      case 3:
        std::swap(action, list[static_cast<std::size_t>((at + 1) % static_cast<int>(list.size()))]);
        return "swap neighbours";
      case 4:
        action.micro_batch = below(static_cast<std::size_t>(s.micro_batches + 1));
        return "other micro-batch";
      case 5:
        action.kind = static_cast<ActionKind>(below(8));
        return "other kind";
      default:
        if (is_message(action.kind) && below(2) == 0) {
          action.peer = below(static_cast<std::size_t>(s.stages));
          return "other peer";
        }
        action.chunk = below(static_cast<std::size_t>(s.chunks + 1));
        return "other chunk";
    }
  }

 private:
  std::mt19937 random_;
};

TEST(ScheduleCheck, FindsMutations) {
  struct Count {
    int found = 0, harmless = 0;
  };
  std::map<std::string, Count> counts;
  Mutator mutator(20240607);
  for (int round = 0; round < 20000; ++round) {
    const ScheduleKind kind = kKinds[mutator.below(5)];
    const int chunks = 1 + mutator.below(static_cast<std::size_t>(most_chunks(kind)));
    const Schedule original =
        make_schedule(kind, 1 + mutator.below(4), chunks, 1 + mutator.below(9));
    Schedule changed = original;
    const std::string what = mutator.mutate(changed);
    if (changed.actions == original.actions) continue;
    const auto problems = validate(changed);
    // Order of gradients, buffers and results: the toy and the validator agree in both directions.
    EXPECT_EQ(problems.empty(), works(changed))
        << name(changed) << ", " << what << ": " << ::testing::PrintToString(problems);
    ++(problems.empty() ? counts[what].harmless : counts[what].found);
  }
  int found = 0;
  for (const auto& [what, count] : counts) {
    fmt::print("{:18} {:5} found, {:4} change nothing\n", what, count.found, count.harmless);
    found += count.found;
    if (what.find("swap") == std::string::npos) {
      EXPECT_EQ(count.harmless, 0) << what;
    }
  }
  EXPECT_GT(found, 14000);
}

std::string first_problem(const Schedule& s) {
  const auto problems = validate(s);
  return problems.empty() ? "" : problems.front();
}

TEST(ScheduleCheck, NamesStageActionAndReason) {
  Schedule s = make_schedule(one_f_one_b, 2, 1, 3);
  // Stage 0: F0 send F1 send BW0 ...; the first two forwards in the other order on stage 0 only.
  std::vector<std::size_t> forwards;
  for (std::size_t i = 0; i < s.actions[0].size(); ++i) {
    if (s.actions[0][i].kind == ActionKind::forward) forwards.push_back(i);
  }
  s.actions[0][forwards[0]].micro_batch = 1;
  s.actions[0][forwards[0] + 1].micro_batch = 1;
  s.actions[0][forwards[1]].micro_batch = 0;
  for (Action& a : s.actions[0]) {
    if (&a > &s.actions[0][forwards[1]] && a.kind == ActionKind::send_forward &&
        a.micro_batch == 1) {
      a.micro_batch = 0;
      break;
    }
  }
  EXPECT_THAT(first_problem(s), HasSubstr("message 0 from stage 0 to stage 1: send_forward is of "
                                          "micro-batch 1 for chunk 0, receive_forward expects "
                                          "micro-batch 0 for chunk 0"));

  s = make_schedule(zb_h1, 3, 1, 4);
  s.actions[2].pop_back();
  EXPECT_THAT(first_problem(s),
              HasSubstr("stage 2: backward_weight of micro-batch 3, chunk 0 is missing"));

  s = make_schedule(gpipe, 1, 1, 2);
  std::swap(s.actions[0][2], s.actions[0][3]);
  EXPECT_THAT(first_problem(s),
              HasSubstr("stage 0, action 2: backward of micro-batch 1, chunk 0 is "
                        "out of order: micro-batch 0 comes next"));
}

// Both stages are in order, and each waits for the other.
TEST(ScheduleCheck, FindsADeadlock) {
  Schedule s = make_schedule(one_f_one_b, 2, 1, 2);
  // Stage 0 does F0 BW0 F1 BW1; stage 1 both forwards first.
  const auto move = [](StageActions& list, ActionKind kind, int micro_batch, std::size_t to) {
    for (std::size_t i = 0; i < list.size(); ++i) {
      if (list[i].kind != kind || list[i].micro_batch != micro_batch) continue;
      const Action a = list[i];
      list.erase(list.begin() + static_cast<std::ptrdiff_t>(i));
      list.insert(list.begin() + static_cast<std::ptrdiff_t>(to), a);
      return;
    }
  };
  const auto where = [](const StageActions& list, ActionKind kind, int micro_batch) {
    std::size_t i = 0;
    while (list[i].kind != kind || list[i].micro_batch != micro_batch) ++i;
    return i;
  };
  s.kind = gpipe;  // its bound allows more activations
  move(s.actions[1], ActionKind::receive_forward, 1, 0);
  move(s.actions[1], ActionKind::receive_forward, 0, 0);
  move(s.actions[1], ActionKind::forward, 1, where(s.actions[1], ActionKind::forward, 0) + 1);
  EXPECT_THAT(validate(s), IsEmpty());
  move(s.actions[0], ActionKind::send_forward, 1, s.actions[0].size() - 1);
  move(s.actions[0], ActionKind::forward, 1, s.actions[0].size() - 2);
  move(s.actions[0], ActionKind::backward, 0, 3);
  move(s.actions[0], ActionKind::receive_backward, 0, 0);
  move(s.actions[0], ActionKind::backward, 1, s.actions[0].size() - 1);
  EXPECT_THAT(first_problem(s), HasSubstr("deadlock with buffered sends: stage 0 waits for a "
                                          "message, at action"));
  EXPECT_FALSE(works(s));
}

TEST(ScheduleCheck, HoldsTheBounds) {
  Schedule s = make_schedule(gpipe, 2, 1, 6);
  s.kind = one_f_one_b;
  EXPECT_THAT(first_problem(s),
              HasSubstr("stage 0 holds 6 activations at once; the bound of 1f1b is 2"));
  s = make_schedule(one_f_one_b, 2, 1, 3);
  s.actions.pop_back();
  EXPECT_THAT(first_problem(s), HasSubstr("2 stages"));
}

}  // namespace
}  // namespace neox
