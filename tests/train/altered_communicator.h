#pragma once
// A communicator that records what is said in it and in all groups split from it, and can leave
// something out: a run that misses any part of its communication must be noticed.

#include <compare>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "comm/communicator.h"

namespace neox::testing {

/// A kind of operation on tensors. A send and its receive are one: they count as send.
struct CallKind {
  std::string group;
  Purpose purpose = Purpose::other;
  Collective collective = Collective::all_reduce;

  auto operator<=>(const CallKind&) const = default;
  std::string describe() const;
};

/// Calls of one kind on one rank; messages by peer, because only those between two ranks have an
/// order.
struct CallSeries {
  CallKind kind;
  int instance = 0;  ///< which group of that name: the color it was split by
  int peer = -1;
  auto operator<=>(const CallSeries&) const = default;
};

struct SeriesTraffic {
  std::int64_t calls = 0;
  double link_bytes = 0.0;  ///< what this rank sends at least (comm/traffic.h)
  std::int64_t payload = 0;
};

/// Shared by a communicator and all groups split from it. Groups of one are not recorded.
struct CallRecord {
  std::map<CallSeries, SeriesTraffic> series;
  /// What is left out: every call of the kind, or only one of some series.
  struct Omission {
    CallKind kind;
    std::map<CallSeries, std::int64_t> call;  // by its number; empty: all
  };
  std::optional<Omission> omission;
  std::int64_t omitted = 0;
};

/// `world` and `record` must outlive the result. An omitted operation leaves each rank as if alone:
/// all_reduce its own value, reduce_scatter its own part of its own input, all_gather only its own
/// part; a message is not sent, and zeros are received. Host operations are never left out.
std::unique_ptr<Communicator> alter(Communicator& world, CallRecord& record);

}  // namespace neox::testing
