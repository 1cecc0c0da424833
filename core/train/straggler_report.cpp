#include "core/train/straggler_report.h"

#include <algorithm>
#include <sstream>

#include "core/base/log.h"
#include "core/train/median.h"

namespace neox {
namespace {

// Enough for a median; bounds memory where the interval is long.
constexpr std::size_t kMostSteps = 1000;
constexpr std::size_t kMostNamed = 4;

double median_of_others(std::span<const OwnTimes> ranks, std::span<const int> stage, int rank) {
  std::vector<double> medians;
  for (const int other : stage) {
    if (other != rank) medians.push_back(ranks[static_cast<std::size_t>(other)].median);
  }
  return median(std::move(medians));
}

}  // namespace

OwnTimes summarise(std::span<const OwnTime> steps) {
  std::vector<double> own, data;
  for (const OwnTime& step : steps) {
    own.push_back(step.own);
    data.push_back(step.data);
  }
  OwnTimes times;
  times.lower = quantile(own, 0.25);
  times.median = median(std::move(own));
  times.data = median(std::move(data));
  return times;
}

StragglerFindings find_stragglers(std::span<const OwnTimes> ranks, const ParallelLayout& layout,
                                  double threshold) {
  StragglerFindings found;
  std::vector<std::vector<int>> stages(static_cast<std::size_t>(layout.pipe));
  for (int rank = 0; rank < layout.world(); ++rank) {
    stages[static_cast<std::size_t>(coordinates_of(rank, layout).pipe)].push_back(rank);
  }
  for (const std::vector<int>& stage : stages) {
    if (stage.size() < 2) continue;
    for (const int rank : stage) {
      const OwnTimes& mine = ranks[static_cast<std::size_t>(rank)];
      const double others = median_of_others(ranks, stage, rank);
      if (others > 0.0 && mine.median / others > found.slowest_ratio) {
        found.slowest_ratio = mine.median / others;
        found.slowest_rank = rank;
      }
      const double limit = std::max(others * (1.0 + threshold), others + kLeastExcess);
      if (mine.lower > limit) {
        found.slow.push_back({rank, mine, static_cast<int>(stage.size()) - 1, others});
      }
    }
  }
  const auto excess = [](const Straggler& s) { return s.times.median / s.peers_median; };
  std::stable_sort(found.slow.begin(), found.slow.end(),
                   [&](const Straggler& a, const Straggler& b) { return excess(a) > excess(b); });
  return found;
}

std::string describe(const Straggler& s, const ParallelLayout& layout,
                     std::span<const std::string> hosts, std::int64_t steps) {
  const Coordinates at = coordinates_of(s.rank, layout);
  const std::string data =
      s.times.data >= 0.5 * (s.times.median - s.peers_median)
          ? fmt::format(", of it {:.1f} ms waiting for data: look at the disk of its node",
                        1e3 * s.times.data)
          : ": look for other programs, heat and clock rates on its node (--preflight measures it)";
  return fmt::format(
      "straggler: rank {} ({}; tensor {}, data {}, pipe {}) takes {:.1f} ms a step where the "
      "median of the {} other{} of its stage is {:.1f} ms, in the last {} steps{}",
      s.rank, hosts[static_cast<std::size_t>(s.rank)], at.tensor, at.data, at.pipe,
      1e3 * s.times.median, s.peers, s.peers == 1 ? "" : "s", 1e3 * s.peers_median, steps, data);
}

StragglerReport::StragglerReport(const Engine& engine, Communicator& world, std::int64_t interval,
                                 double threshold)
    : engine_(engine),
      world_(world),
      groups_(engine.groups()),
      interval_(interval),
      threshold_(threshold) {
  if (std::find(groups_.begin(), groups_.end(), &world) == groups_.end()) groups_.push_back(&world);
  steps_.reserve(std::min(kMostSteps, static_cast<std::size_t>(interval)));
}

double StragglerReport::waited_seconds() const {
  std::int64_t sum = 0;
  for (const Communicator* group : groups_) sum += group->waited_ns();
  return 1e-9 * static_cast<double>(sum);
}

void StragglerReport::begin_step() {
  waited_before_ = waited_seconds();
  begin_ = std::chrono::steady_clock::now();
}

std::optional<StragglerFindings> StragglerReport::end_step(std::int64_t step, double data_seconds) {
  const std::chrono::duration<double> total = std::chrono::steady_clock::now() - begin_;
  if (steps_.size() < kMostSteps) {
    steps_.push_back({total.count() - (waited_seconds() - waited_before_), data_seconds});
  }
  if (step % interval_ != 0) return std::nullopt;
  const OwnTimes mine = summarise(steps_);
  const auto measured = static_cast<std::int64_t>(steps_.size());
  steps_.clear();
  const std::vector<std::string> texts =
      world_.host_all_gather(fmt::format("{} {} {}", mine.median, mine.lower, mine.data));
  if (world_.rank() != 0) return std::nullopt;
  std::vector<OwnTimes> ranks;
  for (const std::string& text : texts) {
    OwnTimes& times = ranks.emplace_back();
    std::istringstream(text) >> times.median >> times.lower >> times.data;
  }
  const Topology& topology = engine_.topology();
  const StragglerFindings found = find_stragglers(ranks, topology.layout(), threshold_);
  for (std::size_t i = 0; i < std::min(kMostNamed, found.slow.size()); ++i) {
    log_warning("{}", describe(found.slow[i], topology.layout(), topology.hosts(), measured));
  }
  if (found.slow.size() > kMostNamed) {
    log_warning("{} more stragglers", found.slow.size() - kMostNamed);
  }
  return found;
}

}  // namespace neox
