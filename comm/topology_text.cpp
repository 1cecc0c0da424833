// What the topology says about itself.

#include <algorithm>
#include <array>
#include <set>

#include "comm/topology.h"

namespace neox {
namespace {

constexpr int kRanksInFull = 16;
constexpr int kExamples = 3;

struct Range {
  int first = 0, last = -1;

  void add(int value) {
    if (last < first) {
      first = last = value;
    } else {
      first = std::min(first, value);
      last = std::max(last, value);
    }
  }
  std::string str() const {
    return first == last ? fmt::format("{}", first) : fmt::format("{}-{}", first, last);
  }
};

using Row = std::array<std::string, 6>;

std::string format_rows(const std::vector<Row>& rows) {
  std::array<std::size_t, std::tuple_size_v<Row>> width{};
  for (const Row& row : rows) {
    for (std::size_t i = 0; i < row.size(); ++i) width[i] = std::max(width[i], row[i].size());
  }
  std::string text;
  for (const Row& row : rows) {
    std::string line;
    for (std::size_t i = 0; i < row.size(); ++i) {
      line += i == 1 ? fmt::format("  {:<{}}", row[i], width[i])
                     : fmt::format("  {:>{}}", row[i], width[i]);
    }
    text += line + '\n';
  }
  return text;
}

}  // namespace

std::string Topology::describe() const {
  const int ranks = layout_.world();
  std::vector<Row> rows = {
      {ranks <= kRanksInFull ? "rank" : "ranks", "host", "pipe", "data", "context", "tensor"}};
  for (int begin = 0; begin < ranks;) {
    const std::string& host = hosts_[static_cast<std::size_t>(begin)];
    const int stage = coordinates_of(begin, layout_).pipe;
    Range rank, data, context, tensor;
    int end = begin;
    do {
      const Coordinates c = coordinates_of(end, layout_);
      if (c.pipe != stage || hosts_[static_cast<std::size_t>(end)] != host) break;
      rank.add(end);
      data.add(c.data);
      context.add(c.context);
      tensor.add(c.tensor);
      ++end;
    } while (end < ranks && ranks > kRanksInFull);
    rows.push_back(
        {rank.str(), host, fmt::format("{}", stage), data.str(), context.str(), tensor.str()});
    begin = end;
  }
  const auto nodes = std::set<std::string>(hosts_.begin(), hosts_.end()).size();
  return fmt::format("{} rank{} on {} node{} = tensor {} x context {} x data {} x pipe {}\n{}",
                     ranks, ranks == 1 ? "" : "s", nodes, nodes == 1 ? "" : "s", layout_.tensor,
                     layout_.context, layout_.data, layout_.pipe, format_rows(rows));
}

std::string Topology::placement_warning() const {
  const int t = layout_.tensor, groups = layout_.world() / t;
  int split = 0;
  std::string examples;
  for (int g = 0; g < groups; ++g) {
    const auto first = hosts_.begin() + g * t;
    if (std::equal(first + 1, first + t, first)) continue;
    if (++split > kExamples) continue;
    examples +=
        fmt::format("{}ranks {}-{} on ", examples.empty() ? "" : "; ", g * t, g * t + t - 1);
    const std::set<std::string> names(first, first + t);
    std::string list;
    for (const std::string& name : names) list += (list.empty() ? "" : ", ") + name;
    examples += list;
  }
  if (split == 0) return {};
  const std::string more = split > kExamples ? fmt::format("; {} more", split - kExamples) : "";
  return fmt::format(
      "{} of {} tensor-parallel groups span several nodes ({}{}): every layer then waits for the "
      "network. Place consecutive ranks on one node (mpirun --map-by slot does; --map-by "
      "node does not), with a multiple of {} ranks on each, or lower "
      "parallel.model_parallel_size to what divides the ranks of a node",
      split, groups, examples, more, t);
}

}  // namespace neox
