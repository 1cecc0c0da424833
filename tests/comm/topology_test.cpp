// Coordinates and groups of layouts that no machine here has: every rank in turn, as a dry run.

#include "comm/topology.h"

#include <map>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "comm/dry_run_communicator.h"

namespace neox {
namespace {

using ::testing::HasSubstr;

constexpr ParallelLayout kLayouts[] = {
    {},
    {.tensor = 2, .data = 12, .pipe = 4},
    {.tensor = 2, .context = 3, .data = 2, .pipe = 4},
    {.tensor = 8},
    {.pipe = 5},
    {.tensor = 3, .data = 2, .pipe = 2},
};

std::string error_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(Coordinates, TensorIsFastestAndPipeSlowest) {
  const ParallelLayout layout{.tensor = 2, .context = 3, .data = 4, .pipe = 5};
  EXPECT_EQ(layout.world(), 120);
  EXPECT_EQ(coordinates_of(0, layout), (Coordinates{0, 0, 0, 0}));
  EXPECT_EQ(coordinates_of(1, layout), (Coordinates{1, 0, 0, 0}));
  EXPECT_EQ(coordinates_of(2, layout), (Coordinates{0, 1, 0, 0}));
  EXPECT_EQ(coordinates_of(6, layout), (Coordinates{0, 0, 1, 0}));
  EXPECT_EQ(coordinates_of(24, layout), (Coordinates{0, 0, 0, 1}));
  EXPECT_EQ(coordinates_of(119, layout), (Coordinates{1, 2, 3, 4}));
  for (int rank = 0; rank < layout.world(); ++rank) {
    EXPECT_EQ(rank_of(coordinates_of(rank, layout), layout), rank);
  }
}

TEST(Coordinates, OutsideIsAnError) {
  const ParallelLayout layout{.tensor = 2, .data = 3};
  EXPECT_THROW(coordinates_of(-1, layout), Error);
  EXPECT_THROW(coordinates_of(6, layout), Error);
  EXPECT_THROW(rank_of({.tensor = 2}, layout), Error);
  EXPECT_THROW(rank_of({.pipe = 1}, layout), Error);
  EXPECT_THROW(coordinates_of(0, {.tensor = 0}), Error);
}

// The members of a group, found the slow way: all ranks whose coordinates satisfy `same`.
template <class Same>
void expect_group(const Communicator& group, int rank, const ParallelLayout& layout, Same same) {
  const Coordinates here = coordinates_of(rank, layout);
  int size = 0, position = 0;
  for (int r = 0; r < layout.world(); ++r) {
    if (!same(here, coordinates_of(r, layout))) continue;
    position += r < rank ? 1 : 0;
    ++size;
  }
  ASSERT_EQ(group.size(), size) << group.name() << " of rank " << rank;
  ASSERT_EQ(group.rank(), position) << group.name() << " of rank " << rank;
}

TEST(Topology, GroupsOfEveryRankFollowTheirDefinition) {
  for (const ParallelLayout& layout : kLayouts) {
    for (int rank = 0; rank < layout.world(); ++rank) {
      const auto world = make_dry_run_communicator(rank, layout.world());
      const Topology t(*world, layout, planned_hosts(layout.world(), 8));
      using C = Coordinates;
      const auto tcd = [](const C& a, const C& b) {
        return a.tensor == b.tensor && a.context == b.context && a.data == b.data;
      };
      expect_group(t.tensor(), rank, layout, [](const C& a, const C& b) {
        return a.context == b.context && a.data == b.data && a.pipe == b.pipe;
      });
      expect_group(t.context(), rank, layout, [](const C& a, const C& b) {
        return a.tensor == b.tensor && a.data == b.data && a.pipe == b.pipe;
      });
      expect_group(t.data(), rank, layout, [](const C& a, const C& b) {
        return a.tensor == b.tensor && a.context == b.context && a.pipe == b.pipe;
      });
      for (const auto* pipe : {&t.pipe(), &t.pipe_forward(), &t.pipe_backward()}) {
        expect_group(*pipe, rank, layout, tcd);
        EXPECT_EQ(pipe->rank(), t.coordinates().pipe);
      }
      expect_group(t.model(), rank, layout, [](const C& a, const C& b) {
        return a.context == b.context && a.data == b.data;
      });
      expect_group(t.replicas(), rank, layout,
                   [](const C& a, const C& b) { return a.pipe == b.pipe; });
      expect_group(t.data_context(), rank, layout,
                   [](const C& a, const C& b) { return a.tensor == b.tensor && a.pipe == b.pipe; });
      expect_group(t.embedding(), rank, layout, [&](const C& a, const C& b) {
        const auto ends = [&](const C& c) { return c.pipe == 0 || c.pipe == layout.pipe - 1; };
        return a == b || (tcd(a, b) && ends(a) && ends(b));
      });
      EXPECT_EQ(t.first_stage(), t.coordinates().pipe == 0);
      EXPECT_EQ(t.last_stage(), t.coordinates().pipe == layout.pipe - 1);
    }
  }
}

TEST(Topology, AWrongNumberOfRanksIsExplained) {
  const auto make = [](int ranks, const ParallelLayout& layout) {
    return error_of([&] {
      const auto world = make_dry_run_communicator(0, ranks);
      const Topology topology(*world, layout, planned_hosts(ranks, 8));
    });
  };
  EXPECT_THAT(make(48, {.tensor = 2, .data = 12, .pipe = 4}),
              HasSubstr("tensor 2 x context 1 x data 12 x pipe 4 = 96 ranks, but 48 were started: "
                        "start 96 ranks, or use data = 6 on these 48"));
  EXPECT_THAT(make(50, {.tensor = 2, .data = 12, .pipe = 4}), HasSubstr("such as 48 or 56"));
  EXPECT_THAT(make(3, {.tensor = 4}), HasSubstr("another multiple of 4 such as 4"));
  EXPECT_THAT(make(2, {.tensor = 0, .data = 2}), HasSubstr("at least 1"));
}

TEST(Topology, TheTableNamesEveryRankAndCompressesManyOfThem) {
  const auto table = [](const ParallelLayout& layout, int per_node) {
    const auto world = make_dry_run_communicator(0, layout.world());
    return Topology(*world, layout, planned_hosts(layout.world(), per_node)).describe();
  };
  EXPECT_EQ(table({.tensor = 2, .data = 2}, 2),
            "4 ranks on 2 nodes = tensor 2 x context 1 x data 2 x pipe 1\n"
            "  rank  host   pipe  data  context  tensor\n"
            "     0  node0     0     0        0       0\n"
            "     1  node0     0     0        0       1\n"
            "     2  node1     0     1        0       0\n"
            "     3  node1     0     1        0       1\n");
  EXPECT_EQ(table({.tensor = 2, .data = 12, .pipe = 4}, 36),
            "96 ranks on 3 nodes = tensor 2 x context 1 x data 12 x pipe 4\n"
            "  ranks  host   pipe  data  context  tensor\n"
            "   0-23  node0     0  0-11        0     0-1\n"
            "  24-35  node0     1   0-5        0     0-1\n"
            "  36-47  node1     1  6-11        0     0-1\n"
            "  48-71  node1     2  0-11        0     0-1\n"
            "  72-95  node2     3  0-11        0     0-1\n");
}

TEST(Topology, TensorGroupsAcrossNodesAreReported) {
  const auto warning = [](const ParallelLayout& layout, std::vector<std::string> hosts) {
    const auto world = make_dry_run_communicator(0, layout.world());
    return Topology(*world, layout, std::move(hosts)).placement_warning();
  };
  EXPECT_EQ(warning({.tensor = 4, .data = 4}, planned_hosts(16, 8)), "");
  EXPECT_THAT(warning({.tensor = 2, .data = 2}, {"a", "b", "b", "b"}),
              HasSubstr("1 of 2 tensor-parallel groups span several nodes (ranks 0-1 on a, b)"));
  EXPECT_THAT(warning({.tensor = 8, .data = 8}, planned_hosts(64, 4)),
              HasSubstr("ranks 16-23 on node4, node5; 5 more)"));
}

}  // namespace
}  // namespace neox
