// The same training run in every layout: losses, gradient norms and weights equal the single
// rank's.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <unistd.h>

#include <gtest/gtest.h>

#include "comm/mpi.h"
#include "tests/train/layout_run.h"

namespace neox::testing {
namespace {

constexpr int kSteps = 20;
constexpr Family kFamilies[] = {Family::neox,       Family::gpt2,  Family::llama,
                                Family::deep_neox,  Family::bloom, Family::scaled,
                                Family::plain_norm, Family::masked};

// clang-format off
// family, tensor, rows sharded, pipe, schedule, data, ZeRO stage, micro-batch, recompute
const std::vector<Layout> kLayouts = {
    {Family::neox, 1, false, 1, "1f1b", 1, 0, 1, "none"},
    {Family::neox, 1, false, 1, "1f1b", 1, 0, 2, "full"},
    {Family::neox, 1, false, 1, "1f1b", 1, 0, 4, "selective"},
    {Family::neox, 1, false, 1, "1f1b", 2, 0, 1, "first_n"},
    {Family::neox, 1, false, 1, "1f1b", 3, 1, 2, "none"},
    {Family::neox, 1, false, 1, "1f1b", 4, 2, 1, "selective"},
    {Family::neox, 1, false, 1, "1f1b", 4, 3, 1, "full"},
    {Family::neox, 2, true, 1, "1f1b", 1, 0, 2, "none"},
    {Family::neox, 2, false, 1, "1f1b", 1, 0, 4, "selective"},
    {Family::neox, 4, true, 1, "1f1b", 2, 1, 1, "none"},
    {Family::neox, 4, false, 1, "1f1b", 2, 0, 2, "none"},
    {Family::neox, 2, true, 1, "1f1b", 3, 2, 2, "none"},
    {Family::neox, 2, true, 1, "1f1b", 4, 3, 1, "full"},
    {Family::neox, 1, false, 2, "1f1b", 2, 2, 1, "none"},
    {Family::neox, 1, false, 4, "gpipe", 2, 1, 1, "none"},
    {Family::neox, 1, false, 4, "zb-h1", 2, 0, 1, "none"},
    {Family::neox, 1, false, 2, "interleaved", 3, 1, 2, "none"},
    {Family::neox, 1, false, 2, "zb-h1", 4, 3, 1, "none"},
    {Family::neox, 2, true, 2, "zb-h1", 2, 1, 1, "selective"},
    {Family::neox, 2, false, 4, "1f1b", 1, 0, 2, "none"},
    {Family::neox, 4, true, 2, "interleaved", 1, 0, 2, "none"},
    {Family::gpt2, 1, false, 1, "1f1b", 3, 3, 4, "none"},
    {Family::gpt2, 1, false, 1, "1f1b", 4, 0, 1, "none"},
    {Family::gpt2, 1, false, 1, "1f1b", 2, 1, 2, "full"},
    {Family::gpt2, 2, true, 1, "1f1b", 1, 0, 1, "none"},
    {Family::gpt2, 4, false, 1, "1f1b", 1, 0, 4, "none"},
    {Family::gpt2, 4, true, 1, "1f1b", 2, 2, 1, "none"},
    {Family::gpt2, 1, false, 2, "gpipe", 4, 2, 1, "none"},
    {Family::gpt2, 1, false, 4, "1f1b", 2, 3, 1, "none"},
    {Family::gpt2, 1, false, 2, "interleaved", 2, 0, 2, "none"},
    {Family::gpt2, 1, false, 4, "zb-h1", 1, 0, 1, "full"},
    {Family::gpt2, 1, false, 4, "zb-h1", 2, 2, 2, "none"},
    {Family::gpt2, 2, true, 2, "1f1b", 2, 3, 1, "none"},
    {Family::gpt2, 2, true, 4, "gpipe", 1, 0, 2, "selective"},
    {Family::gpt2, 2, false, 2, "interleaved", 2, 1, 1, "first_n"},
    {Family::gpt2, 4, true, 2, "zb-h1", 1, 0, 4, "none"},
    {Family::llama, 1, false, 1, "1f1b", 1, 0, 1, "first_n"},
    {Family::llama, 1, false, 1, "1f1b", 2, 2, 2, "none"},
    {Family::llama, 1, false, 1, "1f1b", 3, 0, 1, "selective"},
    {Family::llama, 1, false, 1, "1f1b", 4, 1, 1, "none"},
    {Family::llama, 4, true, 1, "1f1b", 1, 0, 2, "none"},
    {Family::llama, 4, false, 1, "1f1b", 2, 3, 2, "none"},
    {Family::llama, 4, true, 1, "1f1b", 2, 1, 1, "none"},
    {Family::llama, 4, true, 2, "zb-h1", 1, 0, 2, "full"},
    {Family::llama, 2, true, 2, "interleaved", 2, 2, 1, "none"},
    {Family::llama, 2, true, 1, "1f1b", 4, 1, 1, "none"},
    {Family::llama, 1, false, 4, "gpipe", 1, 0, 4, "none"},
    {Family::llama, 1, false, 2, "1f1b", 4, 0, 1, "none"},
    {Family::llama, 2, true, 4, "1f1b", 1, 0, 2, "first_n"},
    {Family::llama, 1, false, 4, "zb-h1", 2, 3, 1, "selective"},
    {Family::deep_neox, 1, false, 4, "interleaved", 2, 1, 1, "none"},
    {Family::deep_neox, 2, true, 4, "interleaved", 1, 0, 2, "none"},
    {Family::bloom, 2, true, 2, "zb-h1", 2, 3, 1, "selective"},
    {Family::bloom, 4, false, 1, "1f1b", 1, 0, 2, "full"},
    {Family::bloom, 1, false, 2, "interleaved", 2, 1, 1, "none"},
    {Family::scaled, 2, true, 2, "1f1b", 2, 3, 1, "full"},
    {Family::scaled, 2, false, 2, "zb-h1", 1, 0, 2, "none"},
    {Family::plain_norm, 4, true, 2, "zb-h1", 1, 0, 2, "none"},
    {Family::plain_norm, 4, false, 1, "1f1b", 2, 2, 1, "selective"},
    {Family::masked, 2, true, 2, "zb-h1", 2, 3, 1, "selective"},
    {Family::masked, 4, true, 1, "1f1b", 2, 1, 2, "full"},
    {Family::masked, 1, false, 2, "interleaved", 3, 0, 2, "none"},
};
// clang-format on

// Layouts that run side by side.
struct Wave {
  std::vector<std::size_t> layouts;
  std::int64_t ranks = 0;
};

// First fit, the largest first.
std::vector<Wave> waves_of(const std::vector<Layout>& layouts, std::int64_t ranks) {
  std::vector<std::size_t> order(layouts.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return layouts[a].ranks() > layouts[b].ranks();
  });
  std::vector<Wave> waves;
  for (const std::size_t i : order) {
    const std::int64_t needed = layouts[i].ranks();
    auto wave = std::find_if(waves.begin(), waves.end(),
                             [&](const Wave& w) { return w.ranks + needed <= ranks; });
    if (wave == waves.end()) wave = waves.insert(waves.end(), Wave{});
    wave->layouts.push_back(i);
    wave->ranks += needed;
  }
  return waves;
}

class Layouts : public ::testing::Test {
 protected:
  /// Runs every layout on its own ranks, as many at a time as there is room; `body(group, index)`
  /// on the ranks of a layout, its return value of the group's first rank to every rank.
  template <class Body>
  std::vector<std::string> run_all(const std::vector<Layout>& layouts, Body&& body) {
    std::vector<std::string> results(layouts.size());
    for (const Wave& wave : waves_of(layouts, world->size())) {
      std::vector<int> place(static_cast<std::size_t>(world->size()), -1);
      std::size_t next = 0;
      for (const std::size_t i : wave.layouts) {
        for (std::int64_t r = 0; r < layouts[i].ranks(); ++r) place[next++] = static_cast<int>(i);
      }
      const auto group = world->split(
          [&](int rank) {
            return SplitPlace{place[static_cast<std::size_t>(rank)], rank};
          },
          "world");
      const int mine = place[static_cast<std::size_t>(world->rank())];
      std::string result;
      if (mine >= 0) result = body(*group, static_cast<std::size_t>(mine));
      const std::vector<std::string> all = world->host_all_gather(result);
      for (std::size_t rank = all.size(); rank-- > 0;) {
        if (place[rank] >= 0) results[static_cast<std::size_t>(place[rank])] = all[rank];
      }
    }
    return results;
  }

  std::unique_ptr<Communicator> world = make_world_communicator();
};

// One line to parse: "loss norm weight counted".
std::string text_of(const Difference& d) {
  return fmt::format("{} {} {} {}", d.loss, d.norm, d.weight, d.counted);
}
Difference parsed(const std::string& text) {
  Difference d;
  long long counted = 0;
  require(std::sscanf(text.c_str(), "%lf %lf %lf %lld", &d.loss, &d.norm, &d.weight, &counted) == 4,
          "not a difference: {}", text);
  d.counted = counted;
  return d;
}

TEST_F(Layouts, AllGiveTheSingleRanksRun) {
  ASSERT_EQ(world->size(), 8);
  ASSERT_GE(kLayouts.size(), 40u);
  std::map<Family, Reference> references;
  for (std::size_t i = 0; i < std::size(kFamilies); ++i) {
    const auto root = static_cast<int>(i);
    Reference mine;
    if (world->rank() == root) mine = single_rank_reference(kFamilies[i], kSteps);
    references[kFamilies[i]] = broadcast(*world, mine, root);
    const auto& losses = references[kFamilies[i]].losses;
    EXPECT_LT(losses.back(), losses.front());
  }
  const auto results = run_all(kLayouts, [&](Communicator& group, std::size_t i) {
    LayoutRun run(group, kLayouts[i]);
    run.train(kSteps);
    return text_of(run.difference(references.at(kLayouts[i].family)));
  });
  Difference worst;
  for (std::size_t i = 0; i < kLayouts.size(); ++i) {
    const Difference d = parsed(results[i]);
    if (world->rank() == 0) {
      std::printf("  %s: loss %.1e, norm %.1e, weights %.1e\n", kLayouts[i].describe().c_str(),
                  d.loss, d.norm, d.weight);
    }
    EXPECT_LE(d.loss, kLossTolerance) << kLayouts[i].describe();
    EXPECT_LE(d.norm, kNormTolerance) << kLayouts[i].describe();
    EXPECT_LE(d.weight, kWeightTolerance) << kLayouts[i].describe();
    std::int64_t elements = 0;
    for (const auto& [name, values] : references.at(kLayouts[i].family).weights) {
      elements += static_cast<std::int64_t>(values.size());
    }
    EXPECT_EQ(d.counted, elements) << kLayouts[i].describe();
    worst = {std::max(worst.loss, d.loss), std::max(worst.norm, d.norm),
             std::max(worst.weight, d.weight), 0};
  }
  if (world->rank() == 0) {
    std::printf("  %zu layouts, %d steps; worst: loss %.1e, norm %.1e, weights %.1e\n",
                kLayouts.size(), kSteps, worst.loss, worst.norm, worst.weight);
  }
}

// What a layout saves goes on in another one with as many ranks.
struct Relay {
  Layout first, then;
};

std::vector<Relay> relays(const std::string& optimizer) {
  // clang-format off
  std::vector<Relay> all = {
      {{Family::llama, 2, true, 2, "1f1b", 2, 1, 1, "none"}, {Family::llama, 2, true, 1, "1f1b", 4, 3, 1, "none"}},
      {{Family::llama, 1, false, 1, "1f1b", 4, 3, 1, "none"}, {Family::llama, 4, true, 1, "1f1b", 1, 0, 2, "none"}},
      {{Family::llama, 4, false, 1, "1f1b", 1, 0, 2, "none"}, {Family::llama, 1, false, 2, "1f1b", 2, 2, 1, "none"}}};
  // Lion takes the sign of a gradient and MADGRAD its cube root, SM3 its size, so that they make
  // steps of gradients that are nothing but rounding (key biases): they run on the family that has
  // none.
  if (optimizer == "sgd" || optimizer == "lamb") {
    all.push_back({{Family::gpt2, 2, true, 2, "1f1b", 2, 2, 1, "none"}, {Family::gpt2, 1, false, 4, "gpipe", 2, 1, 1, "none"}});
    all.push_back({{Family::gpt2, 1, false, 4, "zb-h1", 1, 0, 2, "none"}, {Family::gpt2, 2, false, 1, "1f1b", 2, 3, 1, "none"}});
  }
  // clang-format on
  for (Relay& relay : all) relay.first.optimizer = relay.then.optimizer = optimizer;
  return all;
}

TEST_F(Layouts, OptimizersGiveTheSingleRanksRun) {
  constexpr int kHalf = 3;
  const std::string directory = world->host_broadcast(
      (std::filesystem::temp_directory_path() / fmt::format("neox_relay_{}", getpid())).string(),
      0);
  std::vector<Relay> all;
  std::vector<Layout> layouts;
  std::map<std::pair<std::string, Family>, Reference> references;
  for (const char* type : {"lion", "sgd", "madgrad_wd", "lamb", "sm3"}) {
    for (const Relay& relay : relays(type)) {
      all.push_back(relay);
      layouts.push_back(relay.first);
      references[{type, relay.first.family}];
    }
  }
  int root = 0;
  for (auto& [key, reference] : references) {
    const int mine = root++ % world->size();
    if (world->rank() == mine) {
      reference = single_rank_reference(key.second, 2 * kHalf, {}, key.first);
    }
  }
  root = 0;
  for (auto& [key, reference] : references) {
    reference = broadcast(*world, reference, root++ % world->size());
  }
  const auto results = run_all(layouts, [&](Communicator& group, std::size_t i) {
    const Reference& whole = references.at({layouts[i].optimizer, layouts[i].family});
    const std::string place = fmt::format("{}/{}", directory, i);
    LayoutRun run(group, layouts[i]);
    run.train(kHalf);
    run.save(place);
    run.train(kHalf);
    Reference second_half = whole;
    second_half.losses.erase(second_half.losses.begin(), second_half.losses.begin() + kHalf);
    second_half.norms.erase(second_half.norms.begin(), second_half.norms.begin() + kHalf);
    LayoutRun resumed(group, all[i].then);
    resumed.load(place);
    resumed.train(kHalf);
    return text_of(run.difference(whole)) + "\n" + text_of(resumed.difference(second_half));
  });
  for (std::size_t i = 0; i < layouts.size(); ++i) {
    const std::string& text = results[i];
    const Difference first = parsed(text), then = parsed(text.substr(text.find('\n') + 1));
    if (world->rank() == 0) {
      const auto print = [](const Layout& layout, const Difference& d) {
        std::printf("  %s: loss %.1e, norm %.1e, weights %.1e\n", layout.describe().c_str(), d.loss,
                    d.norm, d.weight);
      };
      print(all[i].first, first);
      print(all[i].then, then);
    }
    EXPECT_TRUE(first.within_tolerance()) << all[i].first.describe();
    EXPECT_TRUE(then.within_tolerance()) << all[i].then.describe() << "\nresumed";
  }
  world->barrier();
  if (world->rank() == 0) std::filesystem::remove_all(directory);
}

// Relayouts of one data-parallel size: bit for bit. With several micro-batches, stages 2 and 3 add
// sums over the ranks instead of summing what each rank added, so they are equal to each other.
TEST_F(Layouts, ZeroStagesAreBitEqual) {
  struct Case {
    Family family;
    std::int64_t data, micro_batch;
    std::vector<std::int64_t> stages;
  };
  const std::vector<Case> cases = {
      {Family::gpt2, 2, 6, {0, 1, 2, 3}},  {Family::neox, 3, 4, {0, 1, 2, 3}},
      {Family::llama, 4, 3, {0, 1, 2, 3}}, {Family::llama, 2, 2, {0, 1}},
      {Family::llama, 2, 2, {2, 3}},       {Family::neox, 4, 1, {0, 1}},
      {Family::neox, 4, 1, {2, 3}},
  };
  // All stages of a case one after the other on the same ranks.
  std::vector<Layout> layouts;
  for (const Case& c : cases) {
    layouts.push_back({c.family, 1, false, 1, "1f1b", c.data, 0, c.micro_batch, "none"});
  }
  const auto results = run_all(layouts, [&](Communicator& group, std::size_t i) {
    std::optional<Reference> first;
    std::string differences;
    for (const std::int64_t stage : cases[i].stages) {
      Layout layout = layouts[i];
      layout.zero = stage;
      LayoutRun run(group, layout);
      run.train(kSteps);
      if (!first) first = run.reference();
      const Difference d = run.difference(*first);
      if (d.loss == 0.0 && d.norm == 0.0 && d.weight == 0.0) continue;
      differences += fmt::format("stage {} differs from {}: loss {}, norm {}, weights {}\n", stage,
                                 cases[i].stages[0], d.loss, d.norm, d.weight);
    }
    return differences;
  });
  for (std::size_t i = 0; i < cases.size(); ++i) {
    EXPECT_EQ(results[i], "") << layouts[i].describe();
    if (world->rank() == 0) {
      std::printf("  %s: %zu stages %s\n", layouts[i].describe().c_str(), cases[i].stages.size(),
                  results[i].empty() ? "bit-equal" : "differ");
    }
  }
}

}  // namespace
}  // namespace neox::testing
