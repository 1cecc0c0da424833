#include "comm/traffic.h"

#include <algorithm>
#include <vector>

#include "core/base/error.h"
#include "core/base/format.h"

namespace neox {

std::string_view name_of(Collective collective) {
  switch (collective) {
    case Collective::all_reduce:
      return "all_reduce";
    case Collective::reduce_scatter:
      return "reduce_scatter";
    case Collective::all_gather:
      return "all_gather";
    case Collective::all_to_all:
      return "all_to_all";
    case Collective::broadcast:
      return "broadcast";
    case Collective::send:
      return "send";
    case Collective::recv:
      return "recv";
    case Collective::barrier:
      return "barrier";
    case Collective::host:
      return "host";
    case Collective::count:
      break;
  }
  fail("no such collective operation: {}", static_cast<int>(collective));
}

std::string_view name_of(Purpose purpose) {
  switch (purpose) {
    case Purpose::other:
      return "other";
    case Purpose::gradients:
      return "gradients";
    case Purpose::parameters:
      return "parameters";
    case Purpose::tensor_forward:
      return "tensor forward";
    case Purpose::tensor_backward:
      return "tensor backward";
    case Purpose::context_forward:
      return "context forward";
    case Purpose::context_backward:
      return "context backward";
    case Purpose::pipeline:
      return "pipeline";
    case Purpose::embedding:
      return "embedding";
    case Purpose::loss:
      return "loss";
    case Purpose::norm:
      return "norm";
    case Purpose::verification:
      return "verification";
    case Purpose::checkpoint:
      return "checkpoint";
    case Purpose::control:
      return "control";
    case Purpose::count:
      break;
  }
  fail("no such purpose of communication: {}", static_cast<int>(purpose));
}

Traffic& Traffic::operator+=(const Traffic& o) {
  calls += o.calls;
  bytes += o.bytes;
  return *this;
}

Traffic& Traffic::operator-=(const Traffic& o) {
  calls -= o.calls;
  bytes -= o.bytes;
  return *this;
}

double link_bytes(Collective collective, const Traffic& traffic, int size) {
  if (size <= 1) return 0.0;
  const auto bytes = static_cast<double>(traffic.bytes);
  const double others = static_cast<double>(size - 1) / size;
  switch (collective) {
    case Collective::all_reduce:
      return 2.0 * others * bytes;
    case Collective::reduce_scatter:
    case Collective::all_to_all:
    case Collective::broadcast:
      return others * bytes;
    case Collective::all_gather:
      return static_cast<double>(size - 1) * bytes;
    case Collective::send:
      return bytes;
    case Collective::recv:
    case Collective::barrier:
    case Collective::host:
    case Collective::count:
      break;
  }
  return 0.0;
}

// ---- counters ----------------------------------------------------------------------------------

Traffic& TrafficCounts::at(Purpose purpose, Collective collective) {
  return cells[static_cast<std::size_t>(purpose)][static_cast<std::size_t>(collective)];
}

const Traffic& TrafficCounts::at(Purpose purpose, Collective collective) const {
  return cells[static_cast<std::size_t>(purpose)][static_cast<std::size_t>(collective)];
}

Traffic TrafficCounts::total(Purpose purpose) const {
  Traffic sum;
  for (const Traffic& t : cells[static_cast<std::size_t>(purpose)]) sum += t;
  return sum;
}

Traffic TrafficCounts::total(Collective collective) const {
  Traffic sum;
  for (const auto& row : cells) sum += row[static_cast<std::size_t>(collective)];
  return sum;
}

TrafficCounts& TrafficCounts::operator+=(const TrafficCounts& o) {
  for (std::size_t p = 0; p < kPurposes; ++p) {
    for (std::size_t c = 0; c < kCollectives; ++c) cells[p][c] += o.cells[p][c];
  }
  return *this;
}

TrafficCounts& TrafficCounts::operator-=(const TrafficCounts& o) {
  for (std::size_t p = 0; p < kPurposes; ++p) {
    for (std::size_t c = 0; c < kCollectives; ++c) cells[p][c] -= o.cells[p][c];
  }
  return *this;
}

// ---- table -------------------------------------------------------------------------------------

namespace {

struct Row {
  std::string group, purpose, operation, calls, payload, sent;
};

// "12", or "0.25" when the steps don't divide the calls.
std::string per_step(std::int64_t calls, std::int64_t steps) {
  if (calls % steps == 0) return format_grouped(calls / steps);
  return fmt::format("{:.2f}", static_cast<double>(calls) / static_cast<double>(steps));
}

std::string bytes_text(double bytes) {
  return format_bytes(static_cast<std::uint64_t>(bytes + 0.5));
}

void add_rows(const GroupTraffic& group, std::int64_t steps, std::vector<Row>& rows) {
  const auto n = static_cast<double>(steps);
  std::string name = fmt::format("{} ({})", group.group, group.size);
  for (std::size_t p = 0; p < kPurposes; ++p) {
    for (std::size_t c = 0; c < kCollectives; ++c) {
      const auto collective = static_cast<Collective>(c);
      const Traffic& t = group.counts.cells[p][c];
      if (t.calls == 0) continue;
      rows.push_back({name, std::string(name_of(static_cast<Purpose>(p))),
                      std::string(name_of(collective)), per_step(t.calls, steps),
                      bytes_text(static_cast<double>(t.bytes) / n),
                      bytes_text(link_bytes(collective, t, group.size) / n)});
      name.clear();
    }
  }
}

}  // namespace

std::string traffic_table(std::span<const GroupTraffic> groups, std::int64_t steps) {
  require(steps >= 1, "a traffic table over {} steps makes no sense", steps);
  std::vector<Row> rows = {{"group (ranks)", "purpose", "operation", "calls", "payload", "sent"}};
  for (const GroupTraffic& group : groups) {
    if (group.size > 1) add_rows(group, steps, rows);
  }
  if (rows.size() == 1) return "no communication\n";
  const auto width = [&](auto member) {
    std::size_t widest = 0;
    for (const Row& row : rows) widest = std::max(widest, (row.*member).size());
    return widest;
  };
  const std::size_t g = width(&Row::group), p = width(&Row::purpose), o = width(&Row::operation),
                    c = width(&Row::calls), b = width(&Row::payload), s = width(&Row::sent);
  std::string text;
  for (const Row& row : rows) {
    text +=
        fmt::format("  {:<{}}  {:<{}}  {:<{}}  {:>{}}  {:>{}}  {:>{}}\n", row.group, g, row.purpose,
                    p, row.operation, o, row.calls, c, row.payload, b, row.sent, s);
  }
  return text;
}

}  // namespace neox
