#include "core/train/step_profiler.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <sstream>
#include <string_view>

#include "core/base/format.h"
#include "core/base/log.h"

namespace neox {
namespace {

constexpr std::string_view kPipe = "pipe";

// Groups of equal members and one use are one column.
std::string_view column_of(std::string_view group) {
  return group.starts_with(kPipe) ? kPipe : group;
}

std::int64_t calls_of(const TrafficCounts& counts) {
  std::int64_t calls = 0;
  for (std::size_t p = 0; p < kPurposes; ++p) calls += counts.total(static_cast<Purpose>(p)).calls;
  return calls;
}

struct Column {
  std::string name;
  std::vector<double> values;  // by rank, seconds
};

std::string heading(const std::vector<Column>& columns) {
  std::string text = fmt::format("  {:>8}", "rank");
  for (const Column& c : columns) text += fmt::format("  {:>10}", c.name);
  return text + "\n";
}

std::string cell(double seconds) {
  return fmt::format("  {:>10.2f}", 1e3 * seconds);
}

std::string full_rows(const std::vector<Column>& columns) {
  std::string text;
  for (std::size_t rank = 0; rank < columns[0].values.size(); ++rank) {
    text += fmt::format("  {:>8}", rank);
    for (const Column& c : columns) text += cell(c.values[rank]);
    text += '\n';
  }
  return text;
}

std::string summary_rows(const std::vector<Column>& columns) {
  std::string least = fmt::format("  {:>8}", "least"), mean = fmt::format("  {:>8}", "mean"),
              most = fmt::format("  {:>8}", "most"), where = fmt::format("  {:>8}", "on rank");
  for (const Column& c : columns) {
    const auto [low, high] = std::minmax_element(c.values.begin(), c.values.end());
    least += cell(*low);
    most += cell(*high);
    mean += cell(std::accumulate(c.values.begin(), c.values.end(), 0.0) /
                 static_cast<double>(c.values.size()));
    where += fmt::format("  {:>10}", high - c.values.begin());
  }
  return least + "\n" + mean + "\n" + most + "\n" + where + "\n";
}

}  // namespace

double StepTimes::compute() const {
  return total - bubble - data - std::accumulate(exposed.begin(), exposed.end(), 0.0);
}

std::string step_times_table(const std::vector<std::string>& groups,
                             const std::vector<StepTimes>& ranks) {
  std::vector<Column> columns = {{"total", {}}, {"compute", {}}, {"bubble", {}}, {"data wait", {}}};
  for (const std::string& group : groups) columns.push_back({group, {}});
  for (const StepTimes& times : ranks) {
    columns[0].values.push_back(times.total);
    columns[1].values.push_back(times.compute());
    columns[2].values.push_back(times.bubble);
    columns[3].values.push_back(times.data);
    for (std::size_t g = 0; g < groups.size(); ++g) {
      columns[4 + g].values.push_back(times.exposed.at(g));
    }
  }
  return heading(columns) +
         (ranks.size() <= StepProfiler::kRanksInFull ? full_rows(columns) : summary_rows(columns));
}

std::string phase_times_table(const std::vector<PhaseTimes>& ranks) {
  std::vector<Column> columns = {{"total", std::vector<double>(ranks.size(), 0.0)}};
  for (std::size_t p = 0; p < kPhases; ++p) {
    Column column{name_of(static_cast<Phase>(p)), {}};
    double sum = 0.0;
    for (std::size_t rank = 0; rank < ranks.size(); ++rank) {
      const double seconds = ranks[rank].at(p);
      column.values.push_back(seconds);
      columns[0].values[rank] += seconds;
      sum += seconds;
    }
    if (sum > 0.0) columns.push_back(std::move(column));
  }
  return heading(columns) +
         (ranks.size() <= StepProfiler::kRanksInFull ? full_rows(columns) : summary_rows(columns));
}

StepProfiler::Snapshot StepProfiler::snapshot() const {
  Snapshot now;
  now.time = std::chrono::steady_clock::now();
  now.bubble_ns = engine_.bubble_ns();
  for (const Communicator* group : engine_.groups()) now.waited_ns.push_back(group->waited_ns());
  now.traffic = engine_.traffic();
  return now;
}

void StepProfiler::begin_step() {
  begin_ = snapshot();
}

// What this rank found out in the step that ends here, as lines: "total data bubble", then
// "seconds group" of each group it used; a stage may use fewer than others.
std::string StepProfiler::measure(double data_seconds) {
  const Snapshot end = snapshot();
  const double total = std::chrono::duration<double>(end.time - begin_.time).count();
  const double bubble = 1e-9 * static_cast<double>(end.bubble_ns - begin_.bubble_ns);
  if (traffic_.empty()) {
    traffic_ = end.traffic;
    for (GroupTraffic& group : traffic_) group.counts = {};
  }
  std::map<std::string_view, double> waited;
  for (std::size_t i = 0; i < end.traffic.size(); ++i) {
    TrafficCounts counts = end.traffic[i].counts;
    counts -= begin_.traffic[i].counts;
    traffic_[i].counts += counts;
    if (end.traffic[i].size == 1 || calls_of(counts) == 0) continue;
    waited[column_of(end.traffic[i].group)] +=
        1e-9 * static_cast<double>(end.waited_ns[i] - begin_.waited_ns[i]);
  }
  std::string text = fmt::format("{} {} {}\n", total, data_seconds, bubble);
  for (const auto& [name, seconds] : waited) {
    text += fmt::format("{} {}\n", seconds - (name == kPipe ? bubble : 0.0), name);
  }
  return text;
}

std::vector<PhaseTimes> StepProfiler::gather_phases() {
  std::string mine;
  for (const double seconds : engine_.phase_times()) mine += fmt::format("{} ", seconds);
  std::vector<PhaseTimes> all;
  for (const std::string& text : world_.host_all_gather(mine)) {
    std::istringstream in(text);
    for (double& seconds : all.emplace_back()) in >> seconds;
  }
  return all;
}

void StepProfiler::end_step(std::int64_t step, double data_seconds) {
  // First: it waits for the device, so that the times below are those of the whole step.
  const std::vector<PhaseTimes> phases = gather_phases();
  const std::vector<std::string> texts = world_.host_all_gather(measure(data_seconds));
  ++steps_;
  if (world_.rank() != 0) return;
  std::vector<StepTimes> ranks;
  std::vector<std::string> groups;
  for (const std::string& text : texts) {
    std::istringstream in(text);
    StepTimes& times = ranks.emplace_back();
    in >> times.total >> times.data >> times.bubble;
    double seconds = 0.0;
    std::string name;
    while (in >> seconds && std::getline(in >> std::ws, name)) {
      const auto found = std::find(groups.begin(), groups.end(), name);
      const auto column = static_cast<std::size_t>(found - groups.begin());
      if (found == groups.end()) groups.push_back(name);
      times.exposed.resize(std::max(times.exposed.size(), column + 1));
      times.exposed[column] = seconds;
    }
  }
  for (StepTimes& times : ranks) times.exposed.resize(groups.size());
  log_info(
      "profile of step {}: milliseconds; after data wait: waiting for other ranks, by group\n{}",
      step, step_times_table(groups, ranks));
  log_info("phases of step {} on {}, by its own clock: milliseconds\n{}", step,
           engine_.ops().device().is_cpu() ? "the CPU" : "the GPU", phase_times_table(phases));
}

void StepProfiler::report() {
  if (steps_ == 0) return;
  log_info("communication of rank 0 per step, mean of {} profiled step{}:\n{}", steps_,
           steps_ == 1 ? "" : "s", traffic_table(traffic_, steps_));
  if (const BlockGraphs* graphs = engine_.graphs()) {
    log_info("CUDA graphs of rank 0: {} recorded, launched {} times", graphs->recorded(),
             graphs->launched());
  }
}

}  // namespace neox
