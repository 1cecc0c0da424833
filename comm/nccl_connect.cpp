// How NCCL groups are made: nobody enters NCCL before all have come, and nobody leaves before all
// are through, so that a rank that is missing is known by name.

#include <array>
#include <chrono>
#include <optional>

#include "comm/activity.h"
#include "comm/activity_slot.h"
#include "comm/host_name.h"
#include "comm/mpi_internal.h"
#include "comm/nccl_domain.h"
#include "comm/roll_call_internal.h"

namespace neox {
namespace {

// Tags on the control communicator, whose own messages are all collective.
constexpr int kArrivalTag = 1, kConnectedTag = 2, kPairIdTag = 3, kPairReadyTag = 4;
// Rank 0 speaks first, because it knows who is missing.
constexpr double kGraceOfOthers = 5.0;

class Clock {
 public:
  double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count();
  }

 private:
  std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
};

MPI_Comm mpi_of(const Communicator& control) {
  const auto* comm = static_cast<const MPI_Comm*>(control.native());
  require(comm != nullptr, "the {} group of {} ranks has no MPI communicator to connect NCCL over",
          control.name(), control.size());
  return *comm;
}

std::string rank_list(const std::vector<int>& ranks, const std::vector<std::string>& hosts) {
  std::string text;
  for (const int rank : ranks) {
    text += fmt::format("{}{}", text.empty() ? "" : ", ", rank);
    if (!hosts.empty()) text += fmt::format(" ({})", hosts[static_cast<std::size_t>(rank)]);
  }
  return (ranks.size() == 1 ? "rank " : "ranks ") + text;
}

/// Waits until all ranks of `control` are at this point.
void wait_for_all(NcclDomain& domain, Communicator& control) {
  if (control.size() == 1) return;
  const double limit = domain.options.timeout_seconds;
  RollCall arrival(mpi_of(control), kArrivalTag);
  arrival.here();
  const Activity::Waiting waiting(Collective::barrier, control.name());
  const Clock clock;
  for (Backoff backoff; !arrival.over(); backoff.pause()) {
    const double late = clock.seconds() - limit;
    if (late > 0) arrival.give_up();
    require(late < kGraceOfOthers,
            "the {} group could not be made for NCCL: its rank 0 gave no sign for {:g} s",
            control.name(), limit + kGraceOfOthers);
  }
  require(arrival.missing().empty(),
          "the {} group could not be made for NCCL: {} of its {} ranks did not come within {:g} s: "
          "look for what held them up in their output",
          control.name(), rank_list(arrival.missing(), {}), control.size(), limit);
}

/// Polls `comm`, which is being made, until it is ready here and on all ranks of `control`.
void wait_until_connected(NcclDomain& domain, Communicator& control, NcclHandle comm,
                          const char* call) {
  const double limit = domain.options.timeout_seconds;
  std::optional<RollCall> connected;
  if (control.size() > 1) connected.emplace(mpi_of(control), kConnectedTag);
  const Activity::Waiting waiting(Collective::barrier, control.name());
  const Clock clock;
  bool ready = false, over = false;
  for (Backoff backoff; !over; backoff.pause()) {
    if (!ready) {
      const int state = domain.state(comm);
      domain.check(state, call, control.name(), comm);
      ready = state == kNcclSuccess;
      if (ready && connected) connected->here();
    }
    over = connected ? connected->over() : ready;
    const double late = clock.seconds() - limit;
    if (over || late <= 0) continue;
    if (connected) connected->give_up();
    require(ready && late < kGraceOfOthers,
            "the {} group could not be made for NCCL: {} did not finish within {:g} s on this "
            "rank, although all {} ranks began it. Set NCCL_DEBUG=INFO to see where it hangs; the "
            "usual cause is a network interface that other nodes can't reach (NCCL_SOCKET_IFNAME)",
            control.name(), call, limit, control.size());
  }
  if (!connected) return;
  require(
      connected->missing().empty(),
      "the {} group could not be made for NCCL: {} did not finish within {:g} s on {}, although "
      "all {} ranks began it. Set NCCL_DEBUG=INFO to see where it hangs; the usual cause is a "
      "network interface that other nodes can't reach (NCCL_SOCKET_IFNAME)",
      control.name(), call, limit, rank_list(connected->missing(), {}), control.size());
}

NcclConfig config_of(const NcclDomain& domain, bool blocking) {
  NcclConfig config;
  config.blocking = blocking;
  config.max_ctas = domain.options.max_ctas;
  return config;
}

std::string text_of(const NcclId& id) {
  return {id.bytes.begin(), id.bytes.end()};
}

/// The sender (rank 0 of the pair) makes the id; both know afterwards that the other one is here.
/// Nothing when `stop` became true.
std::optional<NcclId> exchange_pair_id(NcclDomain& domain, Communicator& group, int peer, int rank,
                                       const std::atomic<bool>& stop) {
  const MPI_Comm comm = mpi_of(group);
  struct Messages {
    NcclId id;
    char ready = 1;
    std::array<MPI_Request, 2> requests = {MPI_REQUEST_NULL, MPI_REQUEST_NULL};
  };
  auto messages = std::make_unique<Messages>();
  Messages& m = *messages;
  const auto bytes = static_cast<int>(sizeof m.id.bytes);
  const auto done = [&] {
    for (Backoff backoff; !test_all(m.requests, Collective::send); backoff.pause()) {
      if (!stop) continue;
      static_cast<void>(messages.release());  // MPI may still write to them
      return false;
    }
    return true;
  };
  if (rank == 0) {
    domain.check(domain.library.get_unique_id(m.id), "ncclGetUniqueId", group.name());
    check_mpi(MPI_Isend(m.id.bytes.data(), bytes, MPI_BYTE, peer, kPairIdTag, comm, &m.requests[0]),
              "MPI_Isend", Collective::send, peer);
    check_mpi(MPI_Irecv(&m.ready, 1, MPI_BYTE, peer, kPairReadyTag, comm, &m.requests[1]),
              "MPI_Irecv", Collective::send, peer);
    if (!done()) return {};
    return m.id;
  }
  check_mpi(MPI_Irecv(m.id.bytes.data(), bytes, MPI_BYTE, peer, kPairIdTag, comm, &m.requests[0]),
            "MPI_Irecv", Collective::recv, peer);
  if (!done()) return {};
  check_mpi(MPI_Isend(&m.ready, 1, MPI_BYTE, peer, kPairReadyTag, comm, &m.requests[1]),
            "MPI_Isend", Collective::recv, peer);
  if (!done()) return {};
  return m.id;
}

}  // namespace

NcclHandle connect_nccl(NcclDomain& domain, Communicator& control) {
  wait_for_all(domain, control);
  NcclId id;
  if (control.rank() == 0) {
    domain.check(domain.library.get_unique_id(id), "ncclGetUniqueId", control.name());
  }
  const std::string text = control.host_broadcast(text_of(id), 0);
  std::copy(text.begin(), text.end(), id.bytes.begin());
  domain.make_device_current();
  NcclHandle comm = nullptr;
  try {
    domain.check(domain.library.comm_init_rank(comm, control.size(), id, control.rank(),
                                               config_of(domain, false)),
                 "ncclCommInitRankConfig", control.name(), comm);
    wait_until_connected(domain, control, comm, "ncclCommInitRankConfig");
  } catch (...) {
    close_nccl(domain, comm, true);
    throw;
  }
  return comm;
}

NcclHandle split_nccl(NcclDomain& domain, Communicator& control, NcclHandle root, int color,
                      int key) {
  wait_for_all(domain, control);
  NcclHandle part = nullptr;
  domain.check(domain.library.comm_split(root, color, key, part, config_of(domain, true)),
               "ncclCommSplit", control.name(), root);
  wait_until_connected(domain, control, root, "ncclCommSplit");
  return part;
}

NcclHandle connect_nccl_pair(NcclDomain& domain, Communicator& group, int peer, int rank,
                             const std::atomic<bool>& stop) {
  const std::optional<NcclId> id = exchange_pair_id(domain, group, peer, rank, stop);
  if (!id) return nullptr;
  // Both are here now, so a limit applies.
  domain.make_device_current();
  NcclHandle root = nullptr, pair = nullptr;
  const Clock clock;
  const auto finish = [&](NcclHandle polled, const char* call) {
    for (Backoff backoff;; backoff.pause()) {
      const int state = domain.state(polled);
      domain.check(state, call, group.name(), polled);
      if (state == kNcclSuccess) return;
      require(!stop, "the {} group is being destroyed", group.name());
      require(clock.seconds() < domain.options.timeout_seconds,
              "the {} group: NCCL could not connect ranks {} and {} of it within {:g} s; set "
              "NCCL_DEBUG=INFO to see where it hangs",
              group.name(), group.rank(), peer, domain.options.timeout_seconds);
    }
  };
  try {
    domain.check(domain.library.comm_init_rank(root, 2, *id, rank, config_of(domain, false)),
                 "ncclCommInitRankConfig", group.name(), root);
    finish(root, "ncclCommInitRankConfig");
    domain.check(domain.library.comm_split(root, 0, rank, pair, config_of(domain, true)),
                 "ncclCommSplit", group.name(), root);
    finish(root, "ncclCommSplit");
  } catch (...) {
    close_nccl(domain, root, true);
    throw;
  }
  close_nccl(domain, root, false);
  return pair;
}

void close_nccl(NcclDomain& domain, NcclHandle comm, bool abort) noexcept {
  if (comm == nullptr) return;
  NcclLibrary& nccl = domain.library;
  try {
    if (abort) {
      static_cast<void>(nccl.comm_abort(comm));
      return;
    }
    int state = nccl.comm_finalize(comm);
    const Clock clock;
    for (Backoff backoff; state == kNcclInProgress; backoff.pause()) {
      if (clock.seconds() > domain.options.timeout_seconds) break;
      state = domain.state(comm);
    }
    if (state == kNcclSuccess) {
      static_cast<void>(nccl.comm_destroy(comm));
    } else {
      static_cast<void>(nccl.comm_abort(comm));
    }
  } catch (const std::exception&) {  // nobody can be told: this runs in destructors
  }
}

}  // namespace neox
