#include "core/train/preflight_report.h"

#include <algorithm>
#include <set>
#include <vector>

#include "comm/agreement.h"
#include "core/base/exit_code.h"
#include "core/base/format.h"
#include "core/train/median.h"

namespace neox {
namespace {

using Ranks = std::span<const RankFacts>;

std::string bytes_cell(double bytes) {
  return bytes < 0 ? "-" : format_bytes(static_cast<std::uint64_t>(bytes));
}

std::string speed_cell(double speed) {
  return speed > 0.0 ? fmt::format("{:.4g}", speed) : "-";
}

// A column of the table of nodes: one number for each node.
struct Column {
  std::string title;
  std::string (*cell)(double);
  std::vector<double> values{};
};

struct Node {
  std::string host;
  std::vector<const RankFacts*> ranks{};
};

std::vector<Node> nodes_of(Ranks ranks) {
  std::vector<Node> nodes;
  for (const RankFacts& r : ranks) {
    auto node =
        std::find_if(nodes.begin(), nodes.end(), [&](const Node& n) { return n.host == r.host; });
    if (node == nodes.end()) node = nodes.insert(node, Node{r.host});
    node->ranks.push_back(&r);
  }
  return nodes;
}

// Of the ranks that know; -1 without any.
template <class Get>
double least(const Node& node, Get&& get) {
  double value = -1.0;
  for (const RankFacts* r : node.ranks) {
    const double mine = get(*r);
    if (mine >= 0.0 && (value < 0.0 || mine < value)) value = mine;
  }
  return value;
}

template <class Get>
double sum(const Node& node, Get&& get) {
  double value = 0.0;
  for (const RankFacts* r : node.ranks) value += std::max(0.0, static_cast<double>(get(*r)));
  return value;
}

bool any(const Column& column) {
  return std::any_of(column.values.begin(), column.values.end(), [](double v) { return v > 0.0; });
}

std::vector<Column> columns_of(const std::vector<Node>& nodes) {
  std::vector<Column> columns;
  const auto add = [&](std::string title, std::string (*cell)(double), auto value) {
    Column column{std::move(title), cell};
    for (const Node& node : nodes) column.values.push_back(value(node));
    if (any(column)) columns.push_back(std::move(column));
  };
  const auto add_speed = [&](const char* title, Speed which) {
    add(title, speed_cell, [which](const Node& node) {
      return least(
          node, [&](const RankFacts& r) { return r.speed(which) > 0.0 ? r.speed(which) : -1.0; });
    });
  };
  add_speed("TFLOP/s", Speed::product);
  add_speed("copy GB/s", Speed::memory);
  add_speed("net GB/s", Speed::network);
  add_speed("write GB/s", Speed::disk);
  const auto number = [](std::int64_t RankFacts::*field) {
    return [field](const RankFacts& r) { return static_cast<double>(r.*field); };
  };
  add("GPU needed", bytes_cell,
      [&](const Node& n) { return sum(n, number(&RankFacts::device_needed)); });
  add("GPU free", bytes_cell,
      [&](const Node& n) { return sum(n, number(&RankFacts::device_free)); });
  add("host needed", bytes_cell,
      [&](const Node& n) { return sum(n, number(&RankFacts::host_needed)); });
  add("host free", bytes_cell,
      [&](const Node& n) { return least(n, number(&RankFacts::host_available)); });
  add("/dev/shm", bytes_cell,
      [&](const Node& n) { return least(n, number(&RankFacts::shm_free)); });
  add("disk free", bytes_cell,
      [&](const Node& n) { return least(n, number(&RankFacts::disk_free)); });
  return columns;
}

std::string row(const std::string& first, const std::string& second,
                const std::vector<std::string>& cells, std::size_t width) {
  std::string line = fmt::format("  {:<{}}  {:>5}", first, width, second);
  for (const std::string& cell : cells) line += fmt::format("  {:>11}", cell);
  return line + "\n";
}

std::string node_table(const std::vector<Node>& nodes, const std::set<std::string>& named) {
  const std::vector<Column> columns = columns_of(nodes);
  std::size_t width = 6;
  for (const Node& node : nodes) width = std::max(width, node.host.size());
  std::vector<std::string> cells;
  for (const Column& c : columns) cells.push_back(c.title);
  std::string text = row("node", "ranks", cells, width);
  const bool all = nodes.size() <= kNodesInFull;
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    if (!all && named.count(nodes[i].host) == 0) continue;
    cells.clear();
    for (const Column& c : columns) cells.push_back(c.cell(c.values[i]));
    text += row(nodes[i].host, std::to_string(nodes[i].ranks.size()), cells, width);
  }
  if (all) return text;
  for (const auto& [name, q] :
       {std::pair("least", 0.0), std::pair("median", 0.5), std::pair("most", 1.0)}) {
    cells.clear();
    for (const Column& c : columns) cells.push_back(c.cell(quantile(c.values, q)));
    text += row(name, "", cells, width);
  }
  return text;
}

std::string group_table(Ranks ranks) {
  std::string text;
  for (std::size_t i = 0; i < kSpeeds; ++i) {
    const auto which = static_cast<Speed>(i);
    const SpeedInfo& info = info_of(which);
    if (!info.of_group) continue;
    std::vector<double> speeds;
    std::set<std::vector<int>> groups;
    for (const RankFacts& r : ranks) {
      const auto members = r.groups.find(std::string(info.key));
      if (members == r.groups.end()) continue;
      speeds.push_back(r.speed(which));
      groups.insert(members->second);
    }
    if (speeds.empty()) continue;
    text += fmt::format("  {:<34}  {:>5}  {:>6}  {:>9}  {:>9}  {:>9}\n", info.name,
                        groups.begin()->size(), groups.size(), speed_cell(quantile(speeds, 0.0)),
                        speed_cell(median(speeds)), speed_cell(quantile(speeds, 1.0)));
  }
  if (text.empty()) return text;
  return fmt::format("  {:<34}  {:>5}  {:>6}  {:>9}  {:>9}  {:>9}\n", "GB/s sent by each rank",
                     "ranks", "groups", "least", "median", "most") +
         text;
}

const char* word_of(Severity severity) {
  if (severity == Severity::error) return "error";
  return severity == Severity::slow ? "slow" : "warning";
}

std::set<std::string> bad_hosts(std::span<const Finding> findings, Severity severity) {
  std::set<std::string> hosts;
  for (const Finding& f : findings) {
    if (f.severity == severity) hosts.insert(f.bad_hosts.begin(), f.bad_hosts.end());
  }
  return hosts;
}

// How to start without these; nothing where no node would be left.
std::string without(const std::set<std::string>& hosts, std::size_t nodes) {
  if (hosts.empty() || hosts.size() == nodes) return "";
  std::string list;
  for (const std::string& host : hosts) list += (list.empty() ? "" : ",") + host;
  return fmt::format("to start again without: sbatch --exclude={} ...\n", list);
}

std::string verdict(std::span<const Finding> findings) {
  const auto count = [&](Severity severity) {
    return std::count_if(findings.begin(), findings.end(),
                         [&](const Finding& f) { return f.severity == severity; });
  };
  const auto errors = count(Severity::error), slow = count(Severity::slow);
  if (errors > 0) {
    return fmt::format("preflight failed: {} error{}\n", errors, errors == 1 ? "" : "s");
  }
  if (slow > 0) return "preflight: nothing is wrong, but not all is equally fast\n";
  return "preflight passed\n";
}

}  // namespace

int exit_code_of(std::span<const Finding> findings) {
  const auto has = [&](Severity severity) {
    return std::any_of(findings.begin(), findings.end(),
                       [&](const Finding& f) { return f.severity == severity; });
  };
  if (has(Severity::error)) return kExitFailure;
  return has(Severity::slow) ? kExitSlow : 0;
}

std::string preflight_text(Ranks ranks, std::span<const Finding> findings) {
  const std::vector<Node> nodes = nodes_of(ranks);
  const std::set<std::string> wrong = bad_hosts(findings, Severity::error);
  const std::set<std::string> slow = bad_hosts(findings, Severity::slow);
  std::set<std::string> named = wrong;
  named.insert(slow.begin(), slow.end());
  std::string text =
      fmt::format("preflight of {} rank{} on {} node{}: the least of each node\n", ranks.size(),
                  ranks.size() == 1 ? "" : "s", nodes.size(), nodes.size() == 1 ? "" : "s");
  text += node_table(nodes, named) + group_table(ranks);
  for (const Finding& f : findings) text += fmt::format("{}: {}\n", word_of(f.severity), f.text);
  return text + without(exit_code_of(findings) == kExitFailure ? wrong : slow, nodes.size()) +
         verdict(findings);
}

}  // namespace neox
