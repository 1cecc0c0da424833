// The comparison with the single rank can fail: a run that leaves out any part of its
// communication, once or always, is told from a right one.

#include <cstdio>
#include <set>
#include <sstream>

#include <gtest/gtest.h>

#include "comm/mpi.h"
#include "tests/train/altered_communicator.h"
#include "tests/train/layout_run.h"

namespace neox::testing {
namespace {

constexpr int kSteps = 4;
constexpr RunSize kSize{.batch = 4};
constexpr RunSize kOneMicroBatch{.batch = 2};

// clang-format off
const std::vector<Layout> kLayouts = {
    {Family::gpt2, 2, true, 2, "1f1b", 2, 0, 1, "none"},
    {Family::gpt2, 2, true, 2, "1f1b", 2, 1, 1, "none"},
    {Family::gpt2, 2, true, 2, "1f1b", 2, 2, 1, "none"},
    {Family::gpt2, 2, true, 2, "1f1b", 2, 3, 1, "none"},
    {Family::gpt2, 2, false, 2, "interleaved", 2, 0, 1, "none"},
    {Family::llama, 4, true, 2, "zb-h1", 1, 0, 1, "none"},
};
// clang-format on

struct Outcome {
  Difference difference;
  CallRecord record;
};

class Mutations : public ::testing::Test {
 protected:
  Outcome run(const Layout& layout, std::optional<CallRecord::Omission> omission) {
    Outcome outcome;
    outcome.record.omission = std::move(omission);
    const auto altered = alter(*world, outcome.record);
    LayoutRun training(*altered, layout, size);
    training.train(kSteps);
    outcome.difference = training.difference(references.at(layout.family));
    world->host_all_reduce(std::span(&outcome.record.omitted, 1), ReduceOp::sum);
    return outcome;
  }

  /// The union of all ranks' sets, ordered alike on all of them.
  template <class Key>
  std::set<Key> of_all_ranks(const std::set<Key>& mine) {
    std::string text;
    for (const auto& [kind, instance] : mine) {
      text += fmt::format("{} {} {} {}\n", static_cast<int>(kind.purpose),
                          static_cast<int>(kind.collective), instance, kind.group);
    }
    std::set<Key> all;
    for (const std::string& other : world->host_all_gather(text)) {
      std::istringstream lines(other);
      for (std::string line; std::getline(lines, line);) {
        std::istringstream fields(line);
        int purpose = 0, collective = 0, instance = 0;
        fields >> purpose >> collective >> instance >> std::ws;
        std::string group;
        std::getline(fields, group);
        all.insert({{group, static_cast<Purpose>(purpose), static_cast<Collective>(collective)},
                    instance});
      }
    }
    return all;
  }

  /// Runs the layout without the calls and says whether that was noticed.
  void expect_noticed(const Layout& layout, const std::string& what,
                      CallRecord::Omission omission) {
    const Outcome outcome = run(layout, std::move(omission));
    const Difference& d = outcome.difference;
    const bool noticed = !d.within_tolerance();
    ++mutations;
    if (world->rank() == 0) {
      std::printf("    %-8s %-64s loss %.0e, norm %.0e, weights %.0e\n",
                  noticed ? "noticed" : "MISSED", what.c_str(), d.loss, d.norm, d.weight);
    }
    EXPECT_GT(outcome.record.omitted, 0) << what;
    EXPECT_TRUE(noticed) << layout.describe() << " without " << what;
  }

  void use(const RunSize& chosen) {
    size = chosen;
    for (const Family family : {Family::gpt2, Family::llama}) {
      references[family] = broadcast(
          *world, world->rank() == 0 ? single_rank_reference(family, kSteps, size) : Reference{},
          0);
    }
  }

  std::unique_ptr<Communicator> world = make_world_communicator();
  RunSize size;
  std::map<Family, Reference> references;
  int mutations = 0;
};

using Place = std::pair<CallKind, int>;  // with the instance of the group

// What two messages of a channel have in common.
CallKind as_send(CallKind kind) {
  if (kind.collective == Collective::recv) kind.collective = Collective::send;
  return kind;
}

// Every kind of call, left out always and left out once.
TEST_F(Mutations, EveryKindOfCallIsNeeded) {
  ASSERT_EQ(world->size(), 8);
  use(kSize);
  std::set<std::pair<CallKind, std::int64_t>> tried;  // with the ZeRO stage, for the data group
  for (const Layout& layout : kLayouts) {
    const Outcome right = run(layout, std::nullopt);
    ASSERT_TRUE(right.difference.within_tolerance()) << layout.describe();
    if (world->rank() == 0) std::printf("  %s\n", layout.describe().c_str());
    std::set<Place> kinds;
    for (const auto& [series, traffic] : right.record.series) {
      kinds.insert({as_send(series.kind), 0});
    }
    for (const auto& [kind, unused] : of_all_ranks(kinds)) {
      if (!tried.insert({kind, kind.group == "data" ? layout.zero : 0}).second) continue;
      expect_noticed(layout, "every " + kind.describe(), {kind, {}});
      CallRecord::Omission once{kind, {}};
      for (const auto& [series, traffic] : right.record.series) {
        if (as_send(series.kind) == kind) once.call[series] = traffic.calls / 2;
      }
      once.call[{}] = -1;  // not empty on ranks without the kind
      expect_noticed(layout, "one " + kind.describe(), once);
    }
  }
  if (world->rank() == 0) std::printf("  %d mutations\n", mutations);
}

// Every single call of one step, in one group of the job: one after the other is left out.
TEST_F(Mutations, EverySingleCallOfAStepIsNeeded) {
  ASSERT_EQ(world->size(), 8);
  use(kOneMicroBatch);
  const Layout& layout = kLayouts[3];
  const Outcome right = run(layout, std::nullopt);
  ASSERT_TRUE(right.difference.within_tolerance());
  std::set<Place> mine;
  for (const auto& [series, traffic] : right.record.series) {
    mine.insert({as_send(series.kind), series.instance});
  }
  for (const auto& [kind, instance] : of_all_ranks(mine)) {
    // Replicas do alike: groups of the first of them.
    const ParallelLayout ranks{static_cast<int>(layout.tensor), 1, static_cast<int>(layout.data),
                               static_cast<int>(layout.pipe)};
    const Coordinates at = coordinates_of(instance, ranks);
    if (at.data != 0 || at.tensor != 0) continue;
    std::int64_t per_step = 0;
    std::map<CallSeries, std::int64_t> counts;
    for (const auto& [series, traffic] : right.record.series) {
      if (as_send(series.kind) != kind || series.instance != instance) continue;
      counts[series] = traffic.calls / kSteps;
      per_step = std::max(per_step, traffic.calls / kSteps);
    }
    world->host_all_reduce(std::span(&per_step, 1), ReduceOp::max);
    for (std::int64_t number = 0; number < per_step; ++number) {
      CallRecord::Omission once{kind, {}};
      for (const auto& [series, count] : counts) once.call[series] = 2 * count + number;
      once.call[{}] = -1;
      expect_noticed(
          layout,
          fmt::format("call {} of {} {} {}", number + 1, per_step, kind.describe(), instance),
          once);
    }
  }
  if (world->rank() == 0) std::printf("  %d mutations\n", mutations);
}

}  // namespace
}  // namespace neox::testing
